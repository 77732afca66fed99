"""Nano World Models fulfil the contract, and their window slides as in the official rollout."""

import dataclasses

import pytest
import torch
from nano_tiny import INJECTIONS, STATISTICS, network, noising_of, scenario, scenarios, world_of

from worldcompass.rollout import imagine_video
from worldcompass.testing import check_world_model
from worldcompass.types import Actions
from worldcompass.world import Guidable
from worldcompass.worlds.nano.actions import actions_of
from worldcompass.worlds.nano.autoencoder import PictureAutoencoder, PictureDecoder
from worldcompass.worlds.nano.config import PictureConfig
from worldcompass.worlds.nano.tiny import Colours
from worldcompass.worlds.nano.world import NanoWorld, Sampling


@pytest.mark.parametrize("injection", INJECTIONS)
def test_the_world_keeps_the_contract(injection):
    world = world_of(injection, history=2)
    assert world.spec.chunk_lengths == (1, 2)
    check_world_model(world, scenarios(world))


@pytest.mark.parametrize(("prediction", "given"), [("flow", 4), ("epsilon", 2)])
def test_the_world_keeps_the_contract_with_several_given_latents(prediction, given):
    world = world_of(prediction=prediction, given=given)
    check_world_model(world, scenarios(world))


def test_the_world_keeps_the_contract_with_its_real_decoder_and_without_noise():
    decoder = PictureDecoder(PictureAutoencoder(PictureConfig(3, (4, 4), 1, 2)))
    still = noising_of(stabilization=0.0)
    world = NanoWorld(network(), decoder, still, actions_of(2, 2, statistics=STATISTICS), Sampling(5))
    check_world_model(world, scenarios(world))
    context = world.begin(scenarios(world))
    world.attend(context, chunk_of(scenarios(world), 0))  # needs no generators


def chunk_of(batch, latent, length=1):
    return Actions.stack([s.actions.latents(latent, latent + length) for s in batch])


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + row) for row in range(count)]


def far_along(world, batch, latents):
    """A context with so many remembered latents, of noise."""
    context = world.begin(batch)
    for latent in range(latents):
        noise = torch.randn(len(batch), *world.spec.latent_shape[:1], 1, *world.spec.latent_shape[1:])
        context = world.remember(context, noise, chunk_of(batch, latent))
    return context


def watched(world):
    """Inputs of the network, as prefix or as noisy latents."""
    seen = {"prefix": [], "noisy": []}
    world.net.register_forward_pre_hook(
        lambda _module, inputs, options: seen["prefix" if options.get("keep_keys") else "noisy"].append(
            inputs[0]
        ),
        with_kwargs=True,
    )
    return seen


def test_the_window_grows_from_what_is_given_and_then_slides():
    world = world_of(given=1, history=3)
    seen = watched(world)
    imagine_video(world, [scenario(world, "right-2, up-2, left-2")])
    assert [frames.latents_BCKHW.shape[2] for frames in seen["prefix"]] == [1, 2, 3, 3, 3, 3]
    assert len(seen["noisy"]) == 6 * world.spec.num_steps


def test_given_latents_of_a_chunk_belong_to_the_window():
    """Latent 2 is given and 3 imagined in one chunk: the window holds 1 and 2, as in a chunk of its own."""
    world = world_of(given=3, history=2)
    batch, seen = [scenario(world, "right-3")], watched(world)
    given = world.begin(batch).given_PCKHW
    context = world.begin(batch)
    context = world.remember(context, given[:, :, :2], chunk_of(batch, 0, 2))
    attended = world.attend(context, chunk_of(batch, 2, 2), generators(1))
    assert attended.given_K.tolist() == [True, False]
    alone = world.remember(context, given[:, :, 2:], chunk_of(batch, 2))
    alone = world.attend(alone, chunk_of(batch, 3), generators(1))
    assert torch.equal(seen["prefix"][0].latents_BCKHW, seen["prefix"][1].latents_BCKHW)
    noisy = torch.randn(1, 3, 2, 4, 4)
    both = world.predict_clean(noisy, torch.ones(1), chunk_of(batch, 2, 2), attended)
    assert torch.equal(both[:, :, :1], given[:, :, 2:])
    own = world.predict_clean(noisy[:, :, 1:], torch.ones(1), chunk_of(batch, 3), alone)
    torch.testing.assert_close(both[:, :, 1:], own)


def test_each_latent_has_the_action_that_leads_to_it():
    world, batch = world_of(history=2), None
    batch = [scenario(world, "right-1, up-1, left-1, down-1")]
    seen = watched(world)
    context = far_along(world, batch, 3)
    attended = world.attend(context, chunk_of(batch, 3), generators(1))
    world.predict_clean(torch.randn(1, 3, 1, 4, 4), torch.ones(1), chunk_of(batch, 3), attended)
    packed = world.actions.packed(batch[0].actions)
    assert torch.equal(seen["prefix"][0].actions_BKA[0], packed[1:3])
    assert torch.equal(seen["noisy"][0].actions_BKA[0], packed[3:4])


def test_everything_remembered_is_noised_anew_and_kept_clean():
    world = world_of(history=2)
    batch, seen = scenarios(world), watched(world)
    context = far_along(world, batch, 4)
    kept = context.latents_PCKHW.clone()
    for seed in (0, 0, 1):
        world.attend(context, chunk_of(batch, 4), generators(2, seed))
    first, again, other = (frames.latents_BCKHW for frames in seen["prefix"])
    assert torch.equal(first, again)
    assert (first - other).abs().amax((1, 3, 4)).min() > 1e-3, "each remembered latent of each past"
    assert torch.equal(context.latents_PCKHW, kept)
    assert all(bool((frames.timesteps_BK == 20).all()) for frames in seen["prefix"])
    sigma = world.noising.sigmas_T[20]
    signal = float((1 - sigma) / (sigma**2 + (1 - sigma) ** 2).sqrt())
    assert float((first - signal * kept).std()) == pytest.approx(float(sigma * signal / (1 - sigma)), rel=0.2)


def test_candidates_of_one_past_see_the_same_noised_history():
    world = world_of()
    batch = scenarios(world)[:1]
    attended = world.attend(far_along(world, batch, 3), chunk_of(batch, 3), generators(1))
    noisy = torch.randn(1, 3, 1, 4, 4).expand(3, -1, -1, -1, -1)
    rows = world.predict_clean(noisy, torch.full((3,), 0.7), chunk_of(batch, 3), attended)
    torch.testing.assert_close(rows[1:], rows[:1].expand(2, -1, -1, -1, -1), atol=1e-6, rtol=0)


def test_memory_holds_only_what_a_window_reaches():
    world = world_of(history=3)
    context = far_along(world, [scenario(world, "right-9")], 9)
    assert context.latents_PCKHW.shape[2] == context.actions_PKA.shape[1] == 3
    assert context.num_latents == 9


def test_noise_without_generators_is_refused():
    world = world_of()
    batch = scenarios(world)
    with pytest.raises(ValueError, match="pass one generator for each past to attend"):
        world.attend(far_along(world, batch, 1), chunk_of(batch, 1))


def test_a_start_image_is_encoded_where_one_latent_is_given():
    world = world_of()
    image = torch.randint(0, 256, (3, *world.spec.frame_size), dtype=torch.uint8)
    start = dataclasses.replace(scenario(world, "right-2"), conditioning=None, image_3hw=image)
    given = world.begin([start]).given_PCKHW
    torch.testing.assert_close(given[0], world.encode(image[None, None])[0])
    several = world_of(given=2)
    with pytest.raises(ValueError, match="starts from 2 prepared latents, which are missing"):
        several.begin([start])
    small = dataclasses.replace(start, image_3hw=image[:, :4])
    with pytest.raises(ValueError, match=r"its start image has \(4, 8\) pixels, expected \(8, 8\)"):
        world.begin([small])
    other = dataclasses.replace(start, conditioning={"latent": torch.zeros(3, 1, 2, 2)})
    with pytest.raises(ValueError, match=r"shape \(3, 1, 2, 2\), expected \(3, 1, 4, 4\)"):
        world.begin([other])


def test_a_wrong_chunk_or_number_of_rows_is_refused():
    world = world_of()
    batch = scenarios(world)
    with pytest.raises(ValueError, match=r"imagines chunks of \(1,\), not 2"):
        world.attend(world.begin(batch), chunk_of(batch, 0, 2))
    attended = world.attend(far_along(world, batch, 1), chunk_of(batch, 1), generators(2))
    with pytest.raises(ValueError, match="2 latents needs a context attended for them"):
        world.predict_clean(torch.zeros(2, 3, 2, 4, 4), torch.ones(2), chunk_of(batch, 1), attended)
    with pytest.raises(ValueError, match="3 rows cannot be divided among 2 pasts"):
        world.predict_clean(torch.zeros(3, 3, 1, 4, 4), torch.ones(3), chunk_of(batch, 1), attended)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Sampling(5, history=4), "fewer remembered ones than the window of 4"),
        (Sampling(5, given=0), "expected 1"),
    ],
)
def test_a_window_that_does_not_fit_is_refused(sampling, words):
    with pytest.raises(ValueError, match=words):
        NanoWorld(network(), Colours(), noising_of(), actions_of(2, 2, statistics=STATISTICS), sampling)


def test_controls_of_another_checkpoint_are_refused():
    with pytest.raises(ValueError, match="make 14 numbers for each latent, the network reads 4"):
        NanoWorld(network(), Colours(), noising_of(), actions_of(7, 2, normalised=False))


def test_there_is_no_guidance():
    assert not isinstance(world_of(), Guidable)
