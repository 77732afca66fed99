"""Parts of a picture are cut out once; numbers say where they are, and physics where they go."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import cv2
import numpy as np
import pytest
import torch

from worldcompass.rollout import RolloutRequest, imagine_groups, imagine_whole_videos
from worldcompass.types import Actions, Scenario
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.collect import record_episode
from worldcompass.worlds.hands.facts import ABSENT_POSE, FRAMES_PER_LATENT, NOMINAL, THINGS
from worldcompass.worlds.hands.network.autoencoder import CODE, COLOUR, HandsAutoencoder
from worldcompass.worlds.hands.network.gripper import FILE, cut_by, cut_gripper
from worldcompass.worlds.hands.network.layers import Where, cut_out, laid, moved
from worldcompass.worlds.hands.network.physics import Physics, physics_loss
from worldcompass.worlds.hands.network.seer import Seer
from worldcompass.worlds.hands.network.shadows import reference, shadows_of
from worldcompass.worlds.hands.network.state import GONE, NUMBERS, State, as_planes, numbers_of
from worldcompass.worlds.hands.network.transformer import CELLS, CONFIG, HandsTransformer, Noisy
from worldcompass.worlds.hands.network.views import Parts, Seen, by_distance, commanded
from worldcompass.worlds.hands.outlines import GRIPPER, outlines
from worldcompass.worlds.hands.pretraining import (
    misplaced,
    numbers_at,
    planes_of,
    recoloured,
)
from worldcompass.worlds.hands.recording import HandsEpisode
from worldcompass.worlds.hands.silhouettes import silhouettes, start_poses
from worldcompass.worlds.hands.splits import scene
from worldcompass.worlds.hands.starts import scene_starts
from worldcompass.worlds.hands.world import HandsWorld
from worldcompass.worlds.small.context import attended_for
from worldcompass.worlds.small.heads import LEAST_VARIANCE
from worldcompass.worlds.small.pretraining.pictures import to_unit


def untrained() -> HandsWorld:
    """With a code that loses nothing of a plain picture, and a network that moves the gripper at random."""
    torch.manual_seed(0)
    autoencoder = HandsAutoencoder()
    pictures = torch.nn.functional.avg_pool2d(torch.rand(64, 3, 64, 64).round(), 5, 1, 2)
    autoencoder.start_linear(torch.cat([pictures, as_planes(0.1 * torch.randn(64, NUMBERS), (64, 64))], 1))
    net = HandsTransformer(autoencoder, replace(CONFIG, depth=1))
    for last in (net.grip[-1], net.nudge[-1]):
        for weights in last.parameters():
            torch.nn.init.normal_(weights, std=0.02)
    return HandsWorld(autoencoder, net)


def scenarios(path: str, latents: int) -> list[Scenario]:
    actions = ACTIONS.along(path).latents(0, latents)
    return [Scenario(start.scene.name, actions, start.image_3hw) for start in scene_starts()[:2]]


def box(left: int, top: int, size: int = 10) -> torch.Tensor:
    plane = torch.zeros(64, 64)
    plane[top : top + size, left : left + size] = 1
    return plane


def at(rows: int = 1, **changed: torch.Tensor) -> State:
    """The reference state, with some of it changed."""
    return replace(reference().each(torch.zeros(rows, dtype=torch.long)), **changed)


def placed(*places: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor([places])


def truly_apart(episode: HandsEpisode) -> Parts:
    """What the start image is made of, as the engine draws it."""
    true = outlines(episode.grip_F4[0], episode.things_FT7[0])
    start = State.of(torch.from_numpy(numbers_at(episode, [0])))
    table, bare = to_unit(episode.table_hw3)[None], to_unit(episode.bare_Mhw3[:1])
    share = torch.from_numpy(true[None, : len(THINGS)]).float() / 255
    return Parts(table, cut_out(bare, share, Where.of(start.middle_T3).depth), start.middle_T3, start.up_T3)


def test_parts_where_they_truly_are_look_as_the_engine_draws_them(engine):
    """Camera, order, shadows and all: two seconds after the start image was taken apart."""
    for number in (0, 3, 5):
        episode = record_episode(engine, "heldout", number)
        parts, latents = truly_apart(episode), [0, 5, 10]
        parts = parts.pick(torch.zeros(len(latents), dtype=torch.long))
        state = State.of(torch.from_numpy(numbers_at(episode, latents)))
        drawn = parts.picture(state, parts.layers(state), shadows_of(state))
        true = to_unit(episode.frames_Fhw3[[FRAMES_PER_LATENT * latent for latent in latents]])
        found = -10 * torch.log10((drawn - true).square().mean((1, 2, 3)))
        assert found.min() > 24, found
        unshaded = parts.picture(state, parts.layers(state), torch.zeros(1, 1, 64, 64))
        assert (drawn - true).square().mean() < (unshaded - true).square().mean()


def test_a_part_is_moved_scaled_sheared_and_turned():
    part = torch.stack([box(20, 20), box(20, 20)])[None, None].transpose(1, 2)[:, :1].expand(1, 1, 1, 64, 64)
    zero = torch.zeros(1, 1)
    first = Where(torch.tensor([[[25.0, 25.0]]]), zero + 2, zero, zero)

    def extent(**changed: torch.Tensor) -> tuple[list[float], list[float]]:
        rows, columns = (moved(part, first, replace(first, **changed))[0, 0, 0] > 0.5).nonzero().unbind(1)
        return [rows.min().item(), rows.max().item()], [columns.min().item(), columns.max().item()]

    assert extent() == ([20, 29], [20, 29])
    assert extent(place_2=torch.tensor([[[35.0, 28.0]]])) == ([23, 32], [30, 39])
    assert extent(depth=zero + 1) == ([15, 34], [15, 34])  # twice as near, twice as large
    assert extent(shear=zero + 1)[1] == [16, 33]  # its head goes right, its foot left
    assert extent(tilt=zero + torch.pi / 4)[0] == [18, 31]


def test_what_is_hidden_has_the_colour_of_what_is_seen():
    pictures = torch.full((1, 3, 64, 64), 0.5)
    pictures[0, :, 20:30, 10:20] = torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    pictures[0, :, 20:30, 16:26] = torch.tensor([0.0, 0, 1]).view(3, 1, 1)  # in front
    cut = cut_out(pictures, torch.stack([box(10, 20), box(16, 20)])[None], torch.tensor([[2.0, 1.0]]))
    assert cut[0, 0, :3, 25, 18].tolist() == pytest.approx([1, 0, 0], abs=1e-4)
    assert cut[0, 1, :3, 25, 18].tolist() == pytest.approx([0, 0, 1], abs=1e-4)
    assert cut[0, 0, 3].equal(box(10, 20))


def test_the_nearer_part_is_laid_last():
    far, near = (0.0, 0.1, 0.05), (0.0, -0.1, 0.05)
    for first, second, expected in ((far, near, [0, 1]), (near, far, [1, 0])):
        state = at(middle_T3=placed(first, second, far, far))
        order = by_distance(state)[0].tolist()
        assert [part for part in order if part < 2] == expected
    layers = torch.stack(
        [torch.cat([box(0, 0)[None] * shade] * 3 + [box(0, 0)[None]]) for shade in (0.2, 0.8)]
    )
    assert laid(torch.zeros(1, 3, 64, 64), layers[None], torch.tensor([[1, 0]]))[0, 0, 5, 5] == pytest.approx(
        0.2
    )


def test_a_shadow_leaves_what_rises_and_grows_paler():
    low, high = at(), at(grip_4=reference().grip_4 + torch.tensor([0, 0, 0.12, 0]))
    grounded = at(middle_T3=placed(*[(0, 0, GONE)] * 4))
    low, high = (replace(state, middle_T3=grounded.middle_T3) for state in (low, high))
    (dark, _), (pale, _) = ((shadows_of(s).max(), s) for s in (low, high))
    assert pale < dark
    columns = torch.arange(64.0)
    assert (shadows_of(high)[0, 0].sum(0) * columns).sum() / shadows_of(high).sum() > (
        shadows_of(low)[0, 0].sum(0) * columns
    ).sum() / shadows_of(low).sum()  # the sun throws it to the right


def test_numbers_say_where_everything_is():
    made = scene("train", 0)
    poses, grip = start_poses(made), np.array(made.gripper)
    before = poses.copy()
    here = poses[:, 2] > ABSENT_POSE[2]
    before[here, 0] -= 0.03
    state = State.of(torch.from_numpy(numbers_of(grip, poses, before)))
    assert state.grip_4.numpy() == pytest.approx(grip) and state.here_T.tolist() == here.tolist()
    assert state.speed_T3[state.here_T].numpy() == pytest.approx(
        np.array([[0.03, 0, 0]] * here.sum()), abs=1e-6
    )
    assert state.numbers().shape == (NUMBERS,) and State.of(state.numbers()).up_T3.equal(state.up_T3)
    fallen = poses.copy()
    fallen[0, 3:] = np.sqrt(0.5), np.sqrt(0.5), 0, 0  # the cup, tipped about x
    assert State.of(torch.from_numpy(numbers_of(grip, fallen, fallen))).up_T3[0].numpy() == pytest.approx(
        [0, -1, 0], abs=1e-6
    )


@torch.no_grad()
def test_new_physics_let_all_but_what_is_nudged_stay():
    physics, state = (
        Physics(),
        at(middle_T3=placed((0, 0, 0.06), (0.1, 0, 0.04), (-0.1, 0, 0.05), (0, 0, GONE))),
    )
    nudge = torch.zeros(1, 4, 3)
    nudge[0, :, 0] = 0.01
    after = physics(state, state.grip_4 + 0.001, nudge)
    assert after.grip_4.equal(state.grip_4 + 0.001)
    gone = after.middle_T3 - state.middle_T3
    assert gone[0, :3].numpy() == pytest.approx(np.array([[0.01, 0, 0]] * 3), abs=5e-4)
    assert gone[0, 3].abs().max() == 0 and not after.here_T[0, 3]
    assert after.speed_T3.numpy() == pytest.approx(gone.numpy(), abs=1e-7)


def test_physics_learn_what_recordings_show():
    """Here: that a thing between the fingers comes along, and one far away does not."""
    torch.manual_seed(0)
    grip = torch.tensor([0.0, 0.0, 0.06, 0.1]) + torch.linspace(0, 0.2, 8)[:, None] * torch.tensor(
        [0, 0, 1.0, 0]
    )
    things = torch.zeros(8, 4, 9)
    things[:, :, 5], things[:, 2:, 2] = 1, GONE
    things[:, 0, :3] = grip[:, :3]
    things[1:, 0, 6:] = grip[1:, :3] - grip[:-1, :3]
    things[:, 1, :3] = torch.tensor([0.15, 0.1, 0.04])
    numbers = torch.cat([grip, things.flatten(1)], 1)[None].expand(16, -1, -1)
    physics, generator = Physics(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(physics.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        losses.append(physics_loss(physics, numbers, generator, 3))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.4 * losses[0]
    after = physics(State.of(numbers[:1, 2]), grip[3][None])
    assert (
        after.middle_T3[0, 0, 2] - numbers[0, 2, 6] > 0.01 > (after.middle_T3[0, 1] - things[2, 1, :3]).norm()
    )


def test_each_latent_of_a_row_follows_the_one_before():
    net, state = untrained().net, at(2)
    assert isinstance(net, HandsTransformer)
    torch.nn.init.normal_(net.physics.leave.weight, std=0.05)
    grip = state.grip_4[0] + 0.02 * torch.randn(6, 4)
    rows = State(*(x.repeat_interleave(3, 0) for x in vars(state).values()))
    found = net._unrolled(rows, grip, torch.zeros(6, 4, 3), 3)
    for row in range(2):
        now = state.each(slice(row, row + 1))
        for step in range(3):
            now = net.physics(now, grip[3 * row + step][None])
            torch.testing.assert_close(found.numbers()[3 * row + step], now.numbers()[0])


def test_a_way_is_the_posterior_of_a_random_walk():
    """Against conditioning a normal distribution of steps, in float64."""
    generator = torch.Generator().manual_seed(0)
    guess, shown = torch.randn(2, 6, 4, generator=generator)
    spread = 0.1 + torch.rand(6, 4, generator=generator)
    level = torch.tensor([[0.0], [0.7], [0.7], [1.0], [0.4], [0.4]])
    found = Noisy(shown, level).likely_way(guess, spread, 3)
    for row, number in product(range(2), range(4)):
        part = slice(3 * row, 3 * row + 3)
        m, s, x = (a[part, number].double() for a in (guess, spread, shown))
        keep, noise = 1 - level[part, 0].double(), level[part, 0].double() ** 2 / CELLS + LEAST_VARIANCE
        reads = keep[:, None] * torch.ones(3, 3).tril()  # of steps
        precision = torch.diag(s**-2) + reads.T @ torch.diag(1 / noise) @ reads
        steps = torch.linalg.solve(precision, reads.T @ ((x - keep * m) / noise))
        torch.testing.assert_close(found[part, number].double(), m + steps.cumsum(0), atol=1e-4, rtol=1e-4)


def test_a_commanded_gripper_stays_within_its_range():
    grip = torch.tensor([[0.0, 0.0, 0.1, 0.2]])
    reached = commanded(grip, torch.tensor([[1.0, -1, 0, -1]]))
    assert reached.numpy() == pytest.approx(grip.numpy() + NOMINAL * [1, -1, 0, -1], abs=1e-6)
    assert commanded(grip, torch.full((1, 4), 9.0))[0].tolist() == pytest.approx([0.17, 0.18, 0.218, 0.24])


def test_outlines_show_parts_whole():
    made = scene("train", 0)
    poses, grip = start_poses(made), np.array(made.gripper)
    found, shown = outlines(grip, poses), silhouettes(grip, poses)
    for index in range(len(THINGS)):
        seen = shown == index
        assert (poses[index, 2] > ABSENT_POSE[2]) == bool(found[index].any())
        assert not seen.any() or (found[index][seen] > 100).mean() > 0.85
    assert (found[len(THINGS) :].max(0)[shown == -2] > 60).mean() > 0.8
    hidden = poses.copy()
    hidden[0] = grip[0], grip[1] - 0.1, 0.0, 1, 0, 0, 0  # before the gripper
    assert np.array_equal(outlines(grip, hidden)[len(THINGS) :], found[len(THINGS) :])


def test_recordings_hold_what_the_seer_learns_from(engine):
    episode = record_episode(engine, "train", 3)
    assert episode.bare_Mhw3.shape == (21, 64, 64, 3) and episode.table_hw3.shape == (64, 64, 3)
    planes = planes_of(episode, [0, 5])
    assert planes.shape == (2, 3 + NUMBERS, 64, 64)
    assert planes[1, 3:6, 7, 9].numpy() == pytest.approx(episode.grip_F4[5 * FRAMES_PER_LATENT, :3])
    for latent in (0, 5):
        frame, bare = episode.frames_Fhw3[latent * FRAMES_PER_LATENT], episode.bare_Mhw3[latent]
        end = latent * FRAMES_PER_LATENT
        shown = outlines(episode.grip_F4[end], episode.things_FT7[end]) / 255
        things, gripper = shown[:4].max(0), shown[4:].max(0)
        assert (frame != bare)[(gripper > 0.9) & (things == 0)].any(-1).mean() > 0.95  # it is gone
        assert (bare != episode.table_hw3)[things > 0.9].any(-1).mean() > 0.95


def test_the_gripper_is_the_engines(engine):
    made = cut_by(engine).astype(int)
    stored = cv2.imread(str(FILE), cv2.IMREAD_UNCHANGED)
    assert stored is not None and abs(made - stored.astype(int)).max() <= 2
    assert len(GRIPPER) == len(cut_gripper())


def test_what_was_cut_out_of_the_start_image_stays():
    """After any number of chunks of noise the table and the things are those of the first picture."""
    world = untrained()
    context = world.begin(scenarios("right-30", 20))
    actions = Actions.stack([s.actions for s in scenarios("right-30", 20)])
    first: Seen | None = None
    for chunk in range(3):
        context = world.attend(context, actions.latents(4 * chunk, 4 * chunk + 4))
        assert context.attended is not None
        seen = Seen.of(context.attended.seen_PDKyx[:, :, 3])
        first = first or seen
        for name in ("table_N3hw", "cut_NT4hw", "first_NT3", "axes_NT3"):
            torch.testing.assert_close(getattr(seen.parts, name), getattr(first.parts, name))
        clean = torch.cat([context.last_PCHW[:, :, None], torch.randn(2, CODE.channels, 3, 8, 8)], 2)
        context = world.remember(context, clean, actions.latents(4 * chunk, 4 * chunk + 4))


def test_a_part_elsewhere_is_an_error_that_grows_with_its_distance():
    autoencoder = untrained().autoencoder
    picture, errors = torch.full((1, 3, 64, 64), 0.5), []
    true = at().numbers()
    for away in (0, 0.02, 0.05):
        guess = true.clone()
        guess[0, 0] += away
        pair = (torch.cat([picture, as_planes(x, (64, 64))], 1) for x in (guess, true))
        errors.append(float(misplaced(autoencoder, *map(autoencoder.encode_planes, pair))))
    assert errors[0] < 1e-3 < errors[1] < errors[2]


def test_a_number_that_never_differs_leaves_latents_finite():
    """Along an axis on which nothing differs there is nothing to divide by."""
    autoencoder = HandsAutoencoder()
    planes = torch.cat([torch.rand(40, 3, 64, 64), as_planes(torch.rand(40, NUMBERS), (64, 64))], 1)
    planes[:, -1] = 0
    autoencoder.start_linear(planes)
    latents = autoencoder.encode_planes(planes)
    assert latents.isfinite().all()
    torch.testing.assert_close(autoencoder.look(latents).numbers, planes[:, 3:, 0, 0], atol=1e-3, rtol=0)


def test_colours_are_changed_alike_in_all_pictures():
    picture = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 1e-3
    first, second = recoloured((picture, picture.clone()), torch.Generator().manual_seed(1))
    assert first.equal(second) and not first.allclose(picture)


def test_a_new_seer_shows_the_picture_itself():
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    apart = Seer()(picture)
    assert (apart.table_N3hw - picture).abs().mean() < 0.1 and apart.outlines_NLhw.max() < 0.2
    assert apart.state.numbers().shape == (2, NUMBERS)


def test_guidance_is_against_a_gripper_that_rests():
    world = untrained()
    begun = world.begin(scenarios("right+up-9", 4))
    commanded, resting = (
        attended_for(world.attend(begun, Actions.stack([s.actions for s in scenarios(path, 4)])), 4)
        for path in ("right+up-9", "none-9")
    )
    weak = attended_for(world.weaken(replace(begun, attended=commanded)), 4)
    torch.testing.assert_close(weak.seen_PDKyx, resting.seen_PDKyx)
    torch.testing.assert_close(weak.command, resting.command)
    assert not commanded.seen_PDKyx.equal(resting.seen_PDKyx)


@pytest.mark.parametrize("rollout", [imagine_groups, imagine_whole_videos])
def test_candidates_differ_at_a_temperature_and_videos_do_not_tremble(rollout):
    world, starts = untrained(), scenarios("right-9", 8)
    request = RolloutRequest(starts, 1, 4, 3, (0,), world.spec.sigmas())

    def apart(temperature: float | None) -> float:
        """Deviation of the gripper's place among candidates, metres."""
        clean = rollout(world, replace(request, temperature=temperature))[0].clean_BCKHW
        numbers = world.autoencoder.look(clean.transpose(1, 2).flatten(0, 1)).numbers
        return float(numbers.unflatten(0, (2, 3, 4))[..., :3].std(1).mean())

    assert apart(None) < 5e-4 < 5e-3 < apart(0.5) < apart(1.0)


def test_the_gripper_learns_from_its_numbers_alone():
    """Pixels of a gripper that is off by more than its fingers are thick point anywhere."""
    world = untrained()
    context = world.begin(scenarios("right-9", 4))
    actions = Actions.stack([s.actions for s in scenarios("right-9", 4)])
    attended = world.attend(context, actions)
    noisy = torch.randn(2, CODE.channels, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    clean = world.predict_clean(noisy, torch.ones(2), actions, attended)
    assert isinstance(world.net, HandsTransformer)
    last = world.net.grip[-1]
    assert isinstance(last, torch.nn.Linear)
    picture, numbers = (
        torch.autograd.grad(part.square().sum(), last.weight, retain_graph=True, allow_unused=True)[0]
        for part in (clean[:, :COLOUR], clean[:, COLOUR:])
    )
    assert picture is None or not picture.any()
    assert numbers.abs().max() > 0
