"""The WorldPlay worlds fulfil the contract on tiny random networks, with a stand-in for the video decoder."""

import dataclasses

import pytest
import torch
from camera_paths import parse_path
from worldplay_tiny import CONFIG_5B, CONFIG_8B, HEIGHT, WIDTH, random_decoder, random_network

from worldcompass.rollout import RolloutRequest, imagine_groups, imagine_video
from worldcompass.testing import check_world_model
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.loop import train
from worldcompass.training.lora import Lora
from worldcompass.training.objective import nft_loss
from worldcompass.training.optim import Optimiser
from worldcompass.training.policy import Policy
from worldcompass.training.selection import Learning
from worldcompass.types import Actions, Scenario, Scores
from worldcompass.worlds.open.poses import commanded
from worldcompass.worlds.open.tiny import Blend
from worldcompass.worlds.worldplay.branches import Latents
from worldcompass.worlds.worldplay.context import STABILIZATION_TIMESTEP, whole_timesteps
from worldcompass.worlds.worldplay.tiny import conditioning_5b, conditioning_8b
from worldcompass.worlds.worldplay.world import (
    FAMILY_5B,
    FAMILY_8B,
    LORA_TARGETS_5B,
    LORA_TARGETS_8B,
    Guidance,
    WorldPlay,
)

KINDS = ["8b", "5b"]
FAMILIES = {"8b": FAMILY_8B, "5b": FAMILY_5B}
LORA_TARGETS = {"8b": LORA_TARGETS_8B, "5b": LORA_TARGETS_5B}


def world_of(kind, **changes):
    return WorldPlay(FAMILIES[kind], random_network(kind), Blend(), (HEIGHT, WIDTH), **changes)


def scenario(kind, seed, path):
    generator = torch.Generator().manual_seed(seed)
    if kind == "8b":
        conditioning = conditioning_8b(CONFIG_8B, generator, num_tokens=5 - seed)
    else:
        conditioning = conditioning_5b(CONFIG_5B, generator)
    conditioning["latent"] = torch.randn(3, HEIGHT, WIDTH, generator=generator)
    return Scenario(f"s{seed}", commanded(parse_path(path)), conditioning=conditioning)


def with_latent_of(scenario, height, width):
    latent = scenario.conditioning["latent"][:, :height, :width]
    return dataclasses.replace(scenario, conditioning={**scenario.conditioning, "latent": latent})


def scenarios(kind):
    paths = ("w-3, w+right-4, left-20, up-12", "d-3, s-4, up+right-24, down-8")
    return [scenario(kind, seed, path) for seed, path in enumerate(paths)]


def noise(rows, seed=0):
    return torch.randn(rows, 3, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def chunk_of(batch, chunk):
    return Actions.stack([s.actions.latents(4 * chunk, 4 * chunk + 4) for s in batch])


def far_along(world, batch, chunk):
    """A context with ``chunk`` remembered chunks of noise, attended for the next."""
    context = world.begin(batch)
    for before in range(chunk):
        context = world.remember(context, noise(len(batch), before), chunk_of(batch, before))
    return world.attend(context, chunk_of(batch, chunk))


@pytest.mark.parametrize(
    ("kind", "steps"), [("8b", [1000, 937.5, 833.333, 625]), ("5b", [1000, 960, 888.8889, 727.2728])]
)
def test_noise_levels_are_the_released_ones(kind, steps):
    """For 5B those of its released inference; for 8B the shift of 480p."""
    expected = torch.tensor([*steps, 0])
    torch.testing.assert_close(1000 * world_of(kind).spec.sigmas(4), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_world_keeps_the_contract(kind):
    check_world_model(world_of(kind), scenarios(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_world_keeps_the_contract_with_its_real_decoder(kind):
    """The official autoencoders at tiny sizes, whose memory reaches back over all latents."""
    world = WorldPlay(FAMILIES[kind], random_network(kind), random_decoder(kind), (2, 2))
    batch = [with_latent_of(s, 2, 2) for s in scenarios(kind)]
    check_world_model(world, batch)
    assert world.spec.frame_size == (2 * world.decoder.pixels_per_cell, 2 * world.decoder.pixels_per_cell)


def test_finished_latents_stay_what_the_decoder_was_given():
    """The released training divides the shared past by the autoencoder's scale and keeps the quotient."""
    world, batch = world_of("8b"), scenarios("8b")[:1]
    world.decoder = random_decoder("8b")
    assert world.decoder.net.config.scale != 1
    clean = noise(1)
    kept, context = clean.clone(), world.begin(batch)
    world.decode(clean, context)
    context = world.remember(context, clean, chunk_of(batch, 0))
    world.decode(clean, context)
    assert torch.equal(clean, kept)
    assert torch.equal(context.pasts[0].chunks[0][0], kept[0])
    seen = []
    world.net.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    world.attend(context, chunk_of(batch, 1))
    assert torch.equal(seen[0].latents_BCKHW[:, :3], kept)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_share_long_pasts_whose_memory_is_chosen(kind):
    """Beyond the limit of remembered latents, each past has its own choice and rows do not mix."""
    world, batch = world_of(kind), scenarios(kind)
    context = far_along(world, batch, 8)
    limit = FAMILIES[kind].memory.num_latents
    assert context.num_latents == 32
    assert context.attended.first_position == limit
    noisy, sigma = noise(4), torch.tensor([0.9, 0.5, 0.7, 0.2])
    with torch.no_grad():
        together = world.predict_clean(noisy, sigma, chunk_of(batch, 8), context)
        for row in range(4):
            past = row // 2
            alone = world.predict_clean(
                noisy[row : row + 1],
                sigma[row : row + 1],
                chunk_of(batch[past : past + 1], 8),
                context.select(past),
            )
            torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_serves_video_is_trained(kind):
    world = world_of(kind)
    policy = Policy(world.net)
    assert policy.live.keys() == {n for n, _ in world.net.named_parameters() if not world.net.is_text_only(n)}
    batch = scenarios(kind)[:1]
    clean = world.predict_clean(
        noise(2), torch.tensor([0.7, 0.3]), chunk_of(batch, 1), far_along(world, batch, 1)
    )
    clean.square().mean().backward()
    assert all(bool(p.grad.any()) for p in policy.parameters)


def test_the_8b_start_image_is_a_condition_and_nothing_is_given():
    world, batch = world_of("8b"), scenarios("8b")[:1]
    context = far_along(world, batch, 0)
    assert context.given_K.tolist() == [False] * 4
    seen = {}
    world.net.register_forward_pre_hook(lambda _module, inputs: seen.update(latents=inputs[0]))
    world.predict_clean(noise(2), torch.full((2,), 0.7), chunk_of(batch, 0), context)
    channels = seen["latents"].latents_BCKHW
    assert torch.equal(channels[:, :3], noise(2))
    assert torch.equal(channels[1, 3:6, 0], batch[0].conditioning["latent"])
    assert not channels[:, 3:6, 1:].any()
    assert channels[0, 6].amax((1, 2)).tolist() == channels[0, 6].amin((1, 2)).tolist() == [1, 0, 0, 0]


def test_the_5b_start_image_is_the_first_latent_and_comes_back_exactly():
    world, batch = world_of("5b"), scenarios("5b")[:1]
    context = far_along(world, batch, 0)
    assert context.given_K.tolist() == [True, False, False, False]
    assert far_along(world, batch, 1).given_K.tolist() == [False] * 4
    seen = {}
    world.net.register_forward_pre_hook(lambda _module, inputs: seen.update(latents=inputs[0]))
    clean = world.predict_clean(noise(2), torch.full((2,), 0.7), chunk_of(batch, 0), context)
    start = batch[0].conditioning["latent"]
    assert torch.equal(clean[:, :, 0], start.expand(2, -1, -1, -1))
    assert torch.equal(seen["latents"].latents_BCKHW[:, :, 0], start.expand(2, -1, -1, -1))
    assert seen["latents"].timesteps_BK[0].tolist() == [STABILIZATION_TIMESTEP, 700, 700, 700]


@pytest.mark.parametrize("kind", KINDS)
def test_remembered_latents_are_read_as_they_were_finished(kind):
    """Never scaled again (the released training divides them twice), at the timestep of finished latents."""
    world, batch, seen = world_of(kind), scenarios(kind)[:1], []
    world.net.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    far_along(world, batch, 2)
    memory = seen[-1]
    assert torch.equal(memory.latents_BCKHW[0, :3], torch.cat([noise(1, 0), noise(1, 1)], 2)[0])
    assert set(memory.timesteps_BK.flatten().tolist()) == {STABILIZATION_TIMESTEP}
    assert memory.first_position == 0
    assert memory.world_from_camera_BK44.dtype == torch.float32


def test_timesteps_are_cut_only_on_request_as_in_the_released_training():
    batch, seen = scenarios("8b")[:1], []
    for world in (world_of("8b"), world_of("8b", timestep_of=whole_timesteps)):
        context = far_along(world, batch, 0)
        world.net.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].timesteps_BK))
        world.predict_clean(noise(1), torch.tensor([0.7777]), chunk_of(batch, 0), context)
    torch.testing.assert_close(seen[0], torch.full((1, 4), 777.7))
    assert seen[1].tolist() == [[777.0] * 4]


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_leaves_cameras_and_memory_exact(kind):
    """The network gets the trajectory's own poses; in bfloat16, as in the released code, 20 units out the spacing
    is wider than a step."""
    world, batch = world_of(kind), scenarios(kind)
    for s in batch:
        s.actions.world_from_camera_K44[:, 2, 3] += 20.3
    noisy, sigma, seen = noise(2), torch.full((2,), 0.7), []
    world.net.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        expected = world.predict_clean(noisy, sigma, chunk_of(batch, 8), far_along(world, batch, 8))
        with torch.autocast("cpu", torch.bfloat16):
            found = world.predict_clean(noisy, sigma, chunk_of(batch, 8), far_along(world, batch, 8))
    coming, half = chunk_of(batch, 8).world_from_camera_K44, len(seen) // 2
    for memory, chunk in (seen[half - 2 : half], seen[-2:]):  # without autocast and with it
        assert torch.equal(chunk.world_from_camera_BK44, coming)
        assert memory.latents_BCKHW.shape[2] == FAMILIES[kind].memory.num_latents
        for remembered, s in zip(memory.world_from_camera_BK44, batch, strict=True):
            own = s.actions.world_from_camera_K44[:32]
            assert (remembered[:, None] == own).all((-1, -2)).any(1).all()
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_is_for_play(kind):
    negative = {
        k: torch.zeros_like(v) for k, v in scenarios(kind)[0].conditioning.items() if k == "text_states"
    }
    batch, sigma = scenarios(kind)[:1], torch.full((2,), 0.7)
    plain = world_of(kind)
    worlds = [world_of(kind, guidance=Guidance(scale, negative)) for scale in (1.0, 0.0, 6.0)]
    with torch.no_grad():
        expected = plain.predict_clean(noise(2), sigma, chunk_of(batch, 1), far_along(plain, batch, 1))
        same, none, strong = (
            w.predict_clean(noise(2), sigma, chunk_of(batch, 1), far_along(w, batch, 1)) for w in worlds
        )
    torch.testing.assert_close(same, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(strong, none + 6 * (expected - none), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="guidance is for play"):
        worlds[2].predict_clean(noise(2), sigma, chunk_of(batch, 1), far_along(worlds[2], batch, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_missing_or_misshapen_conditioning_is_refused(kind):
    world, (first, _) = world_of(kind), scenarios(kind)
    with pytest.raises(ValueError, match=r"s0: worldplay-.b starts from prepared conditioning"):
        world.begin([dataclasses.replace(first, conditioning=None)])
    without_text = {k: v for k, v in first.conditioning.items() if k != "text_states"}
    with pytest.raises(ValueError, match="text_states missing"):
        world.begin([dataclasses.replace(first, conditioning=without_text)])
    other_size = {**first.conditioning, "latent": torch.zeros(3, 9, 9)}
    with pytest.raises(ValueError, match=r"shape \(3, 9, 9\), expected \(3, 2, 4\)"):
        world.begin([dataclasses.replace(first, conditioning=other_size)])


def test_chunks_are_decoded_as_the_continuation_of_all_before_them():
    """Three chunks, so that the decoder's memory must continue from an earlier memory."""
    world, batch = world_of("8b"), scenarios("8b")
    start = context = world.begin(batch)
    cleans, frames = [], []
    for chunk in range(3):
        cleans.append(noise(2, chunk).cumsum(2) / 4)
        frames.append(world.decode(cleans[-1], context))
        context = world.remember(context, cleans[-1], chunk_of(batch, chunk))
    whole = world.decode(torch.cat(cleans, 2), start)
    assert whole.shape[1] == world.spec.num_frames(0, 12)
    assert torch.equal(torch.cat(frames, 1), whole)


def test_a_chunk_of_another_length_is_refused():
    world, batch = world_of("8b"), scenarios("8b")[:1]
    with pytest.raises(ValueError, match="imagines chunks of 4 latents, not 3"):
        world.attend(world.begin(batch), Actions.stack([batch[0].actions.latents(0, 3)]))


def test_an_image_of_zeros_is_no_image():
    """In text to video the image's states are ignored, not read as an image."""
    world, (first, _) = world_of("8b"), scenarios("8b")
    blank = {**first.conditioning, "vision_states": torch.zeros(3, CONFIG_8B.vision_width)}
    (with_image,) = world.begin([first]).pasts
    (without,) = world.begin([dataclasses.replace(first, conditioning=blank)]).pasts
    assert with_image.texts[0][0][0].shape[2] - without.texts[0][0][0].shape[2] == 3


class Brightness:
    """A critic that any change can satisfy."""

    name = "brightness"

    def __call__(self, group):
        values = group.frames_GF3hw.float().mean((1, 2, 3, 4))
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [False, True])
def test_the_whole_loop_trains_it(kind, lora, tmp_path):
    """Two steps of the curriculum change the video half and not the text half."""
    world = world_of(kind)
    before = {n: p.clone() for n, p in world.net.named_parameters()}
    config = Config(
        steps=2,
        sampling=Sampling(prompts_per_step=2, group_size=4, last_chunk=1, denoising_steps=3),
        learning=Learning(best=1, worst=1, noise_levels=2),
        optimiser=Optimiser(lr=1e-3, lora=Lora(rank=2, targets=LORA_TARGETS[kind]) if lora else None),
    )
    policy = train(world, [Brightness()], scenarios(kind), config, tmp_path, live=False)
    after = dict(world.net.named_parameters())
    if lora:
        assert all(".lora_" in name for name in policy.live)
        assert any(bool(p.any()) for n, p in policy.live.items() if n.endswith("lora_B"))
        after = {n.replace(".base.", "."): p for n, p in after.items() if ".lora_" not in n}
    moved = {n for n, p in before.items() if not torch.equal(p, after[n])}
    assert moved == (set() if lora else set(policy.live))


def test_the_given_latent_of_5b_is_masked_in_the_loss(tmp_path):
    seen = []

    def watched(*inputs):
        seen.append(inputs[-1].tolist())
        return nft_loss(*inputs)

    config = Config(
        steps=2,
        sampling=Sampling(prompts_per_step=2, group_size=2, last_chunk=1, denoising_steps=2),
        learning=Learning(best=1, worst=1, noise_levels=1, objective=watched),
    )
    train(world_of("5b"), [Brightness()], scenarios("5b"), config, tmp_path, live=False)
    assert seen == [[True, False, False, False], [False] * 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_reads_each_scenarios_text_once(kind, tmp_path):
    """For any number of chunks, candidates, denoising steps and updates."""
    world, read = world_of(kind), []
    world.net.register_forward_pre_hook(lambda _module, inputs: read.append(type(inputs[0])))
    config = Config(
        steps=1,
        sampling=Sampling(prompts_per_step=2, group_size=4, first_chunk=1, last_chunk=1, denoising_steps=3),
        learning=Learning(best=1, worst=1, noise_levels=2),
    )
    train(world, [Brightness()], scenarios(kind), config, tmp_path, live=False)
    assert len([kind for kind in read if kind is not Latents]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_videos_are_imagined_to_their_end(kind):
    """10 latents: the last action fills the third chunk, the video is trimmed."""
    batch = [dataclasses.replace(s, actions=s.actions.latents(0, 10)) for s in scenarios(kind)]
    world = world_of(kind)
    video = imagine_video(world, batch, num_steps=2)
    assert video.shape == (2, 37, 3, 2 * HEIGHT, 2 * WIDTH)
    (futures,) = imagine_groups(world, RolloutRequest(scenarios(kind), 1, 4, 3, (0,), world.spec.sigmas(2)))
    assert [g.frames_GF3hw.shape[:2] for g in futures.groups] == [(3, 16)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_imagining_with_other_weights_leaves_every_parameter_as_it_was(kind):
    """Those outside the blocks too: the released swap forgets to put them back."""
    world, batch = world_of(kind), scenarios(kind)[:1]
    policy = Policy(world.net)
    with torch.no_grad():
        for average in policy.behaviour_weights.values():
            average.add_(0.1)
    before = {name: p.detach().clone() for name, p in world.net.named_parameters()}
    assert any("blocks" not in name for name in policy.live)
    with policy.behaviour():
        inside = {name: p.detach().clone() for name, p in policy.live.items()}
        imagine_groups(world, RolloutRequest(batch, 1, 4, 2, (0,), world.spec.sigmas(2)))
    assert all(not torch.equal(value, before[name]) for name, value in inside.items())
    assert all(torch.equal(p, before[name]) for name, p in world.net.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_remembered_latents_have_the_released_timestep_and_memory_the_same_points_in_every_process(kind):
    """WorldPlay's stabilization level 15, counted from 0; the points decide which latents are remembered."""
    torch.manual_seed(1)
    world = world_of(kind)
    torch.manual_seed(2)
    assert torch.equal(world.points_N3, world_of(kind).points_N3)
    one = scenarios(kind)[:1]
    begun, seen = world.begin(one), []
    chunk = [Actions.stack([one[0].actions.latents(at, at + 4)]) for at in (0, 4)]
    finished = world.remember(
        begun, torch.zeros(1, *world.spec.latent_shape)[:, :, None].expand(-1, -1, 4, -1, -1), chunk[0]
    )
    world.net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0]))
    world.attend(finished, chunk[1])
    assert seen[0].timesteps_BK.unique().tolist() == [14.0]
