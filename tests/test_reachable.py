"""True pasts, and what the decoder can show at best."""

from typing import Any

import pytest
import torch
from toy_truth import with_truth

from worldcompass.errors import UnfitInputs
from worldcompass.reachable import reachable_truth, true_past
from worldcompass.rollout import chunk_actions
from worldcompass.testing import ContractError, check_world_model
from worldcompass.toy import ToyWorld, toy_scenarios


@pytest.fixture
def known():
    world = ToyWorld()
    return world, with_truth(ToyWorld(seed=1), toy_scenarios(2, 12))


def test_reachable_truth_of_a_lossless_world_is_the_truth(known):
    world, scenarios = known
    rebuilt = reachable_truth(world, scenarios)
    true = torch.stack([s.truth.frames_F3hw for s in scenarios])
    assert rebuilt.shape == true.shape
    assert (rebuilt.int() - true.int()).abs().max() <= 1  # rounding of the frames between


def test_a_shorter_reachable_truth_is_the_start_of_the_longer_one(known):
    world, scenarios = known
    short = reachable_truth(world, scenarios, num_latents=8)
    assert torch.equal(short, reachable_truth(world, scenarios)[:, : short.shape[1]])


def test_a_true_past_holds_the_engines_frames_and_its_latents(known):
    world, scenarios = known
    past = true_past(world, scenarios, 2, 4, [("k", s.id) for s in scenarios])
    assert past.context.num_latents == 8
    assert past.forward_passes == 4
    assert torch.equal(past.frames_PF3hw[0], scenarios[0].truth.frames_F3hw[: world.spec.num_frames(0, 8)])
    latents = world.encode(torch.stack([s.truth.frames_F3hw for s in scenarios]))
    assert torch.equal(past.context.latents_PCMHW, latents[:, :, :8])
    attended = world.attend(past.context, chunk_actions(world, scenarios, 2, 4))
    assert attended.num_pasts == 2


def test_no_true_past_is_the_start(known):
    world, scenarios = known
    past = true_past(world, scenarios, 0, 4, [("k", s.id) for s in scenarios])
    assert past.context.num_latents == 0
    assert past.frames_PF3hw.shape[1] == 0


def test_a_scenario_without_its_continuation_is_refused(known):
    world, _ = known
    with pytest.raises(UnfitInputs, match=r"has 0 frames of the engine's continuation, 15 are needed"):
        true_past(world, toy_scenarios(1, 12), 2, 4, [("k",)])


def test_a_world_that_cannot_encode_is_refused(known):
    _, scenarios = known

    blind: Any = type("Blind", (), {k: v for k, v in vars(ToyWorld).items() if k != "encode"})
    with pytest.raises(UnfitInputs, match="has no method encode"):
        reachable_truth(blind(), scenarios)


class Foreseeing(ToyWorld):
    def encode(self, frames_PF3hw):
        latents = super().encode(frames_PF3hw)
        return latents - latents[:, :, -1:]


class Halved(ToyWorld):
    def encode(self, frames_PF3hw):
        return super().encode(frames_PF3hw).half()


@pytest.mark.parametrize(
    ("world", "words"), [(Foreseeing(), "let no latent depend on later frames"), (Halved(), "float32")]
)
def test_the_contract_names_a_broken_encoder(world, words):
    with pytest.raises(ContractError, match=words):
        check_world_model(world, toy_scenarios(2))
