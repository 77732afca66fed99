"""How the candidates of a group differ."""

import dataclasses

import pytest
import torch

from worldcompass.guidance import Guidance, across, guided, siblings
from worldcompass.rollout import RolloutRequest, imagine_groups
from worldcompass.toy import ToyWorld, toy_scenarios


class Guided(ToyWorld):
    """Guidance against an estimate from half of the past."""

    def weaken(self, context):
        return dataclasses.replace(context, latents_PCMHW=0.5 * context.latents_PCMHW)


def contrast(clean):
    return clean.std((-2, -1))


def pair():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_projected_guidance_keeps_the_contrast_to_first_order():
    clean, weak = pair()
    step = 1e-4
    plain, projected = (
        guided(clean, weak, Guidance(torch.full((2,), step).double(), torch.tensor([is_projected] * 2)))
        for is_projected in (False, True)
    )
    change = [(contrast(moved) - contrast(clean)).abs().max() / step for moved in (plain, projected)]
    assert change[1] < 1e-3 < 1e-1 < change[0]


def test_only_the_projected_rows_lose_the_part_along_their_estimate():
    clean, weak = pair()
    weight = torch.tensor([0.5, 0.5]).double()
    mixed = guided(clean, weak, Guidance(weight, torch.tensor([True, False])))
    plain = guided(clean, weak, Guidance(weight))
    assert torch.equal(mixed[1], plain[1])
    assert not torch.allclose(mixed[0], plain[0])
    away = clean - weak - (clean - weak).mean((-2, -1), keepdim=True)
    torch.testing.assert_close(mixed[0], clean[0] + 0.5 * across(away, clean)[0])


def test_guidance_along_the_estimate_alone_is_projected_away():
    clean, _ = pair()
    shape = clean - clean.mean((-2, -1), keepdim=True)
    assert across(0.3 * shape, clean).abs().max() < 1e-12


def test_a_group_holds_plain_projected_and_free_candidates():
    found = siblings(12, 1.0, shared_noise=True, projected=0.5, free_noises=2, keys=("any",))
    free = torch.tensor([key > 0 for key in found.noise_G])
    assert int(free.sum()) == 2
    assert sorted(set(found.noise_G)) == [0, 1, 2]
    assert not found.weight_G[free].any()
    assert int(found.projected_G.sum()) == 5
    assert found.weight_G[found.projected_G].min() > 0
    assert not (found.projected_G & free).any()
    plain = ~found.projected_G & ~free
    torch.testing.assert_close(found.weight_G[plain].sort().values, torch.linspace(0, 1, 5))
    assert found.weight_G.max() == 1


def test_without_shares_of_either_the_weights_are_even_and_the_noise_is_shared():
    found = siblings(5, 2.0, shared_noise=True)
    torch.testing.assert_close(found.weight_G.sort().values, torch.linspace(0, 2, 5))
    assert found.noise_G == (0,) * 5
    assert siblings(5, 2.0).noise_G == (0, 1, 2, 3, 4)


def test_a_groups_candidates_tell_their_guidance_to_critics():
    world, scenarios = Guided(), toy_scenarios(2)
    request = RolloutRequest(
        scenarios, 1, 4, 6, (0,), world.spec.sigmas(), 1.5, True, projected=0.5, free_noises=2
    )
    (futures,) = imagine_groups(world, request)
    for scenario, group in zip(scenarios, futures.groups, strict=True):
        assert torch.equal(group.guidance_G, request.siblings(scenario).weight_G)
        unguided = group.frames_GF3hw[group.guidance_G == 0]
        assert len(unguided) == 3  # one plain, two of own noise
        assert len({frames.numpy().tobytes() for frames in unguided}) == 3


@pytest.mark.parametrize("explore", [0.0, 1.5])
def test_a_group_without_exploration_has_no_guidance_to_tell(explore):
    world = Guided()
    (futures,) = imagine_groups(
        world, RolloutRequest(toy_scenarios(1), 1, 4, 3, (0,), world.spec.sigmas(), explore)
    )
    assert (futures.groups[0].guidance_G is None) == (explore == 0)
