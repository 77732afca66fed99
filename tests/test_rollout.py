"""Imagination: the sampler, randomness by keys alone, sharing of the past, counts of forward passes."""

from dataclasses import replace

import pytest
import torch
from camera_paths import commanded
from toy_worlds import Counting, FewSteps, LongStart, NoisyPast, Recorded

from worldcompass.errors import UserError
from worldcompass.geometry import motion_signs, nominal_poses
from worldcompass.noise import euler_step
from worldcompass.passes import clip_level_passes, whole_video_passes
from worldcompass.rollout import (
    RolloutRequest,
    chunk_noise,
    go_on,
    imagine_chunk,
    imagine_groups,
    imagine_video,
    imagine_whole_videos,
)
from worldcompass.seeding import generator_for
from worldcompass.toy import CARRY, SPREAD, ToyWorld, toy_scenarios
from worldcompass.types import Actions, Scenario, Truth

INTRINSICS = torch.tensor([1.0, 1.0, 0.5, 0.5])


def test_generators_depend_on_the_keys_and_their_kinds():
    def draw(*keys):
        return torch.randint(0, 2**31, (1,), generator=generator_for(*keys)).item()

    assert draw(0, "a", 1) == draw(0, "a", 1)
    assert len({draw(0, "a", 1), draw(0, "a", 2), draw(0, "a1"), draw("0", "a", 1), draw(0, "a")}) == 5


def test_generators_stay_the_same_between_versions():
    generator = generator_for(0, "scenario", 3)
    assert torch.randint(0, 10**6, (3,), generator=generator).tolist() == [
        492539,
        219351,
        838358,
    ]


def test_imagined_latents_have_the_toys_mean_and_spread():
    world, scenarios = ToyWorld(), toy_scenarios(1)
    futures = imagine_groups(world, RolloutRequest(scenarios, 1, 4, 2000, (0,), world.spec.sigmas(200)))[0]
    last = futures.context.latents_PCMHW[:, :, -1]
    first = futures.clean_BCKHW[:, :, 0]
    spread = (first - first.mean(0)).std()
    assert spread.item() == pytest.approx(SPREAD, rel=0.05)
    mean = CARRY * last[0] + world.net(motion_signs(futures.actions.labels_K))[0, 0, :, None, None].detach()
    torch.testing.assert_close(first.mean(0), mean, atol=0.05, rtol=0)


def test_given_latents_come_back_exactly():
    world, scenarios = ToyWorld(), toy_scenarios(1)
    image = torch.randint(0, 256, (3, 4, 4), generator=generator_for(2), dtype=torch.uint8)
    start = Scenario("start", scenarios[0].actions, image_3hw=image)
    futures = imagine_groups(world, RolloutRequest([start], 0, 4, 3, (0,), world.spec.sigmas()))[0]
    assert torch.equal(
        futures.clean_BCKHW[:, :, 0], futures.context.recording_PCMHW[:, :, 0].expand(3, -1, -1, -1)
    )
    group = futures.groups[0]
    assert all(torch.equal(group.frames_GF3hw[g, 0], image) for g in range(3))
    assert torch.equal(group.first_frame_3hw, image) and group.past_frames_F3hw.shape[0] == 0


def test_candidates_share_their_past_and_differ_in_their_future():
    world, scenarios = ToyWorld(), toy_scenarios(2, 12)
    futures = imagine_groups(world, RolloutRequest(scenarios, 2, 4, 3, (0, 5), world.spec.sigmas()))[0]
    assert futures.context.num_pasts == 2 and futures.context.num_latents == 8
    group = futures.groups[1]
    assert group.past_frames_F3hw.shape[0] == world.spec.num_frames(0, 8)
    assert group.frames_GF3hw.shape[:2] == (3, 8)
    assert not torch.equal(group.frames_GF3hw[0], group.frames_GF3hw[1])
    assert torch.equal(group.actions.labels_K, scenarios[1].actions.labels_K[8:12])


@pytest.mark.parametrize("make", [ToyWorld, FewSteps, NoisyPast, Recorded, LongStart])
def test_batching_scenarios_changes_nothing(make):
    together, apart = make(), make(batches_pasts=False)
    scenarios = toy_scenarios(3)
    one = imagine_groups(together, RolloutRequest(scenarios, 1, 4, 4, (0, 1), together.spec.sigmas()))
    many = imagine_groups(apart, RolloutRequest(scenarios, 1, 4, 4, (0, 1), apart.spec.sigmas()))
    assert (len(one), len(many)) == (1, 3)
    torch.testing.assert_close(one[0].clean_BCKHW, torch.cat([f.clean_BCKHW for f in many]))
    videos = imagine_video(together, scenarios, (3,))
    assert (videos.int() - imagine_video(apart, scenarios, (3,)).int()).abs().max() <= 1
    assert (videos[2:].int() - imagine_video(together, scenarios[2:], (3,)).int()).abs().max() <= 1


@pytest.mark.parametrize("make", [FewSteps, NoisyPast])
def test_a_candidate_is_the_same_whichever_process_imagines_it(make):
    world, request = make(), RolloutRequest(toy_scenarios(2), 1, 4, 6, (0, 1), make().spec.sigmas())
    (everything,) = imagine_groups(world, request)
    (part,) = imagine_groups(world, replace(request, candidates=range(2, 4)))
    torch.testing.assert_close(
        part.clean_BCKHW.unflatten(0, (2, 2)), everything.clean_BCKHW.unflatten(0, (2, 6))[:, 2:4]
    )
    other = imagine_groups(world, replace(request, keys=(0, 2)))[0]
    assert not torch.allclose(other.clean_BCKHW, everything.clean_BCKHW)


def test_fresh_noise_differs_by_row_and_step_unless_noise_is_shared():
    world = FewSteps()
    noise = chunk_noise(world, 4, [("a", 0), ("a", 1)])
    drawn = [noise(step) for step in (0, 1, 2)]
    assert len({float(row.sum()) for rows in drawn for row in rows}) == 6
    assert all(
        torch.equal(rows, chunk_noise(world, 4, [("a", 0), ("a", 1)])(i)) for i, rows in enumerate(drawn)
    )
    request = RolloutRequest(toy_scenarios(1), 1, 4, 3, (0,), world.spec.sigmas(), shared_noise=True)
    clean = imagine_groups(world, request)[0].clean_BCKHW
    assert torch.equal(clean, clean[:1].expand_as(clean))


def test_a_sampler_asks_for_fresh_noise_once_for_every_level_but_the_last():
    world, scenarios = FewSteps(), toy_scenarios(1)
    actions = Actions.stack([scenarios[0].actions.latents(0, 4)])
    context, asked = world.attend(world.begin(scenarios), actions), []

    def noise(step):
        asked.append(step)
        return torch.randn(2, 12, 4, 2, 2, generator=generator_for(step))

    imagine_chunk(world, context, actions, noise, world.spec.sigmas())
    assert asked == [0, 1, 2]
    world.spec, asked[:] = replace(world.spec, sampler=euler_step), []
    imagine_chunk(world, context, actions, noise, world.spec.sigmas())
    assert asked == [0]


def test_a_rollout_of_levels_below_1_starts_from_noise_of_that_size():
    """As EDM does, whose largest noise is finite; a denoiser that sees nothing in it keeps it as it is."""
    world, scenarios = ToyWorld(), toy_scenarios(1)
    seen = []

    def keep(noisy, sigma_B, actions, context):
        seen.append(noisy)
        return noisy

    world.predict_clean = keep
    noise = torch.randn(2, 12, 4, 2, 2, generator=generator_for(0))
    actions = Actions.stack([scenarios[0].actions.latents(4, 8)])
    context = world.attend(world.begin(scenarios), actions)
    imagine_chunk(world, context, actions, lambda step: noise, torch.tensor([0.75, 0.0]))
    assert torch.equal(seen[0], 0.75 * noise)


def test_noise_on_the_past_stays_in_the_context_of_the_candidates():
    world = NoisyPast()
    request = RolloutRequest(toy_scenarios(2), 1, 4, 3, (0,), torch.tensor([1.0, 0.0]))
    (futures,) = imagine_groups(world, request)
    keys = [(0, "past", s.id, 1, "attend") for s in request.scenarios]
    drawn = torch.stack([torch.randn(12, 1, 2, 2, generator=generator_for(*own)) for own in keys])
    assert torch.equal(futures.context.noise_PC1HW, drawn)
    rows = [(0, "future", s.id, 1, g) for s in request.scenarios for g in range(3)]
    noisy = chunk_noise(world, 4, rows)(0)
    with torch.no_grad():
        again = world.predict_clean(noisy, torch.ones(6), futures.actions, futures.context)
    assert torch.equal(again, futures.clean_BCKHW)


def test_what_is_given_whole_is_remembered_as_given_and_costs_no_pass():
    class CountingRecorded(Counting, Recorded):
        pass

    world, scenarios = CountingRecorded(given=6), toy_scenarios(2, 12)
    request = RolloutRequest(scenarios, 2, 4, 3, (0,), world.spec.sigmas(5))
    (futures,) = imagine_groups(world, request)
    recording = futures.context.recording_PCMHW
    assert torch.equal(futures.context.latents_PCMHW[:, :, :6], recording)
    # The second chunk, half of it given, once for each scenario; then the candidates; two prefixes each.
    assert futures.forward_passes == 2 * 5 + 6 * 5 + 2 * 2
    given, imagined = world.given_rows, world.rows
    assert given == 2 and imagined == 2 * 5 + 6 * 5


@pytest.mark.parametrize("rollout", [imagine_groups, imagine_whole_videos])
def test_futures_of_a_chunk_that_is_given_whole_are_refused(rollout):
    world = Recorded(given=8)
    with pytest.raises(UserError, match=r"chunk 1 is given whole to toy.*first_chunk=2"):
        rollout(world, RolloutRequest(toy_scenarios(2), 1, 4, 3, (0,), world.spec.sigmas()))


def test_a_first_latent_of_three_frames_shifts_later_frames():
    world, plain, scenarios = LongStart(), ToyWorld(), toy_scenarios(1)
    long, short = (imagine_video(each, scenarios, (3,)) for each in (world, plain))
    assert long.shape[1] == world.spec.num_frames(0, 8) == 3 + 2 * 7 and world.spec.num_frames(0, 0) == 0
    assert long[:, 2:].equal(short) and long[:, :2].equal(short[:, :1].expand(-1, 2, -1, -1, -1))
    truth = Truth(long[0], scenarios[0].actions)
    scenario = replace(scenarios[0], truth=truth)
    for chunk, first in ((0, 0), (1, 9)):
        request = RolloutRequest([scenario], chunk, 4, 2, (0,), world.spec.sigmas())
        group = imagine_groups(world, request)[0].groups[0]
        assert group.truth.frames_F3hw.equal(long[0, first : first + group.frames_GF3hw.shape[1]])
        frames, labels_K = group.transitions()
        assert frames.shape[1] == 1 + 2 * len(labels_K)
        lead = group.frames_GF3hw[:, 2] if chunk == 0 else group.past_frames_F3hw[-1].expand(2, -1, -1, -1)
        assert frames[:, 0].equal(lead)


def test_videos_depend_on_their_keys_and_are_deterministic():
    world, scenarios = ToyWorld(), toy_scenarios(1)
    assert torch.equal(imagine_video(world, scenarios, (3,)), imagine_video(world, scenarios, (3,)))
    assert not torch.equal(imagine_video(world, scenarios, (3,)), imagine_video(world, scenarios, (4,)))


@pytest.mark.parametrize("num_latents", [1, 4, 6, 8])
def test_a_video_has_the_frames_of_its_trajectory_whatever_the_chunks(num_latents):
    world, scenarios = ToyWorld(), toy_scenarios(2, num_latents)
    for length in world.spec.chunk_lengths:
        video = imagine_video(world, scenarios, (0,), length)
        assert video.shape == (2, 2 * num_latents - 1, 3, 4, 4) and video.dtype == torch.uint8


def test_holding_the_last_action_goes_on_along_the_nominal_path():
    world = ToyWorld()
    labels = torch.tensor([0, 9, 12, 1, 28])
    held = world.spec.actions.hold_last(commanded(labels, world.spec.actions.motion, INTRINSICS), 3)
    assert held.labels_K.tolist() == [0, 9, 12, 1, 28, 28, 28, 28]
    plain = nominal_poses(held.labels_K, world.spec.actions.motion)
    torch.testing.assert_close(held.world_from_camera_K44, plain, atol=1e-5, rtol=0)
    assert held.intrinsics_K4.shape == (8, 4)


def test_the_engines_part_of_a_chunk_is_handed_to_critics():
    world, plain = ToyWorld(), toy_scenarios(1)[0]
    frames = torch.arange(15, dtype=torch.uint8)[:, None, None, None].expand(15, 3, 4, 4)
    truth = Truth(frames, replace(plain.actions, labels_K=torch.arange(8)))
    scenario = Scenario("true", plain.actions, truth=truth)
    for chunk, first, last in ((0, 0, 6), (1, 7, 14)):
        group = imagine_groups(world, RolloutRequest([scenario], chunk, 4, 2, (0,), world.spec.sigmas()))[
            0
        ].groups[0]
        assert group.truth.frames_F3hw[[0, -1], 0, 0, 0].tolist() == [first, last]
        assert group.truth.actions.labels_K.tolist() == list(range(4 * chunk, 4 * chunk + 4))
        assert group.truth.frames_F3hw.shape[0] == group.frames_GF3hw.shape[1]


@pytest.mark.parametrize("explore", [0.0, 2.0])
@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_forward_passes_are_counted_as_they_happen(chunk, explore):
    world, scenarios, steps = Counting(), toy_scenarios(2, 12), 3
    sigmas = world.spec.sigmas(steps)
    for rollout, formula in ((imagine_groups, clip_level_passes), (imagine_whole_videos, whole_video_passes)):
        world.rows = world.prefixes = 0
        reported = rollout(world, RolloutRequest(scenarios, chunk, 4, 5, (0,), sigmas, explore))[
            0
        ].forward_passes
        assert reported == world.rows + world.prefixes == 2 * formula(chunk + 1, 5, steps, explore)


@pytest.mark.parametrize("clip_chunks", [2, 3])
def test_passes_of_what_follows_are_counted_as_they_happen(clip_chunks):
    world = Counting()
    request = RolloutRequest(
        toy_scenarios(2, 16), 1, 4, 5, (0,), world.spec.sigmas(3), clip_chunks=clip_chunks
    )
    reported = imagine_groups(world, request)[0].forward_passes
    assert reported == world.rows + world.prefixes == 2 * clip_level_passes(2, 5, 3, 0.0, clip_chunks)


def test_clip_level_rollout_needs_a_fraction_of_the_passes():
    assert whole_video_passes(8, 12, 10) / clip_level_passes(8, 12, 10) > 5


@pytest.mark.parametrize("make", [ToyWorld, FewSteps, LongStart])
def test_a_clip_of_several_chunks_is_what_follows_from_each_candidate(make):
    """The trained chunk is the same as without the rest; what follows is what a rollout from there imagines."""
    world, scenarios = make(), toy_scenarios(2, 16)
    short = RolloutRequest(scenarios, 1, 4, 3, (0, 5), world.spec.sigmas())
    one, clip = (imagine_groups(world, request)[0] for request in (short, replace(short, clip_chunks=3)))
    assert torch.equal(one.clean_BCKHW, clip.clean_BCKHW) and clip.context.num_pasts == 2
    group, own = clip.groups[1], one.groups[1].frames_GF3hw
    assert group.frames_GF3hw.shape[1] == world.spec.num_frames(4, 16)
    assert torch.equal(group.frames_GF3hw[:, : own.shape[1]], own)
    assert torch.equal(group.actions.labels_K, scenarios[1].actions.labels_K[4:16])
    assert torch.equal(group.past_frames_F3hw, one.groups[1].past_frames_F3hw)
    for candidate in range(3):
        clean = clip.clean_BCKHW.unflatten(0, (2, 3))[:, candidate]
        context = world.remember(clip.context, clean, clip.actions)
        keys = [(0, 5, "after", s.id) for s in scenarios]
        after = go_on(world, context, scenarios, range(2, 4), 4, keys, short.sigmas)
        assert torch.equal(group.frames_GF3hw[candidate, own.shape[1] :], after.frames_PF3hw[1])


def test_what_follows_has_the_same_noise_after_every_candidate():
    """Where two candidates are equal, so are their clips."""
    world, scenarios = ToyWorld(), toy_scenarios(1, 12)
    equal = RolloutRequest(scenarios, 1, 4, 2, (0,), world.spec.sigmas(), shared_noise=True, clip_chunks=2)
    first, second = imagine_groups(world, equal)[0].groups[0].frames_GF3hw
    assert torch.equal(first, second)


def test_whole_videos_get_one_score_and_have_separate_pasts():
    world, scenarios = ToyWorld(), toy_scenarios(2)
    futures = imagine_whole_videos(world, RolloutRequest(scenarios, 1, 4, 3, (0,), world.spec.sigmas()))[0]
    assert futures.context.num_pasts == 6 and futures.clean_BCKHW.shape[0] == 6
    group = futures.groups[1]
    assert group.frames_GF3hw.shape[:2] == (3, 15) and group.past_frames_F3hw.shape[0] == 0
    assert len(group.actions) == 8
    assert not torch.equal(group.frames_GF3hw[0, 1:7], group.frames_GF3hw[1, 1:7])


@pytest.mark.parametrize("rollout", [imagine_groups, imagine_whole_videos])
def test_candidates_that_share_their_noise_differ_by_guidance_alone(rollout):
    world, scenarios, size = Counting(), toy_scenarios(2, 8), 4
    sigmas = world.spec.sigmas(3)
    request = RolloutRequest(scenarios, 1, 4, size, (0,), sigmas, 0.0, shared_noise=True)
    same = rollout(world, request)[0].clean_BCKHW.unflatten(0, (2, size))
    assert torch.equal(same, same[:, :1].expand_as(same))
    assert not torch.equal(same[0, 0], same[1, 0])
    clean = rollout(world, replace(request, explore=3.0))[0].clean_BCKHW.unflatten(0, (2, size))
    apart = clean.unsqueeze(1) - clean.unsqueeze(2)
    between = apart.square().flatten(3).sum(-1)[:, ~torch.eye(size, dtype=torch.bool)]
    assert (between > 0).all()


def test_whole_videos_need_a_world_that_batches_pasts():
    world = ToyWorld(batches_pasts=False)
    with pytest.raises(ValueError, match="batches pasts"):
        imagine_whole_videos(world, RolloutRequest(toy_scenarios(1), 1, 4, 2, (0,), world.spec.sigmas()))


def test_a_scenario_that_is_too_short_is_named():
    world = ToyWorld()
    with pytest.raises(ValueError, match="toy-0-0 has 4 latents"):
        imagine_groups(world, RolloutRequest(toy_scenarios(1, 4), 1, 4, 2, (0,), world.spec.sigmas()))


def test_sampling_and_training_call_the_same_function_bit_by_bit():
    world, scenarios = ToyWorld(), toy_scenarios(1)
    actions = Actions.stack([scenarios[0].actions.latents(0, 4)])
    context = world.attend(world.begin(scenarios), actions)
    noise = torch.randn(2, 12, 4, 2, 2, generator=generator_for(0))
    sampled = imagine_chunk(world, context, actions, lambda step: noise, torch.tensor([1.0, 0.0]))
    assert torch.equal(sampled, world.predict_clean(noise, torch.ones(2), actions, context).detach())


def test_explored_candidates_are_guided_evenly_from_none_to_the_most():
    """After one denoising step a candidate is ``c + g (c - c_weak)`` without the means; 0 is the plain future."""
    world, scenarios, size = Counting(), toy_scenarios(2, 8), 4
    sigmas = torch.tensor([1.0, 0.0])
    plain, explored = (
        imagine_groups(world, RolloutRequest(scenarios, 1, 4, size, (0,), sigmas, explore))[0]
        for explore in (0.0, 3.0)
    )
    weak = world.weaken(plain.context)
    noise = torch.cat(
        [chunk_noise(world, 4, [(0, "future", s.id, 1, g) for g in range(size)])(0) for s in scenarios]
    )
    with torch.no_grad():
        unguided = world.predict_clean(noise, torch.ones(2 * size), plain.actions, weak)
    away = plain.clean_BCKHW - unguided
    away -= away.mean((-2, -1), keepdim=True)
    step = explored.clean_BCKHW - plain.clean_BCKHW
    guidance = (step * away).flatten(1).sum(1) / away.flatten(1).square().sum(1)
    torch.testing.assert_close(
        explored.clean_BCKHW,
        plain.clean_BCKHW + guidance.view(-1, 1, 1, 1, 1) * away,
        atol=1e-5,
        rtol=1e-5,
    )
    for group in guidance.view(2, size):
        torch.testing.assert_close(group.sort().values, torch.arange(4.0), atol=1e-4, rtol=0)
