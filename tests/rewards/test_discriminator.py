"""Networks that learn, step by step, to tell candidates from the engine."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d

from worldcompass.critic import Learner
from worldcompass.rewards.discriminator import VIEWS, Discriminator, Schooling
from worldcompass.rewards.examples import OLD, Replay, chunk_clips, pairs_of
from worldcompass.seeding import generator_for
from worldcompass.testing import check_critic
from worldcompass.toy import ACTIONS
from worldcompass.types import Group, Truth

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = Schooling(updates=10, pairs=12, lr=4e-3)
SIZE = (24, 32)


def byte(frames):
    return frames.round().clamp(0, 255).to(torch.uint8)


def blurred(frames):
    return byte(
        avg_pool2d(frames.float().flatten(0, -4), 3, 1, 1, count_include_pad=False).view(frames.shape)
    )


def sharpened(frames):
    return byte(frames.float() + 2 * (frames.float() - blurred(frames)))


def scene(number):
    """Nine frames of soft blobs that move, one scene per number; uint8 (F, 3, h, w)."""
    drawn = torch.randn(1, 3, SIZE[0] + 8, SIZE[1] + 16, generator=generator_for("scene", number))
    soft = avg_pool2d(avg_pool2d(drawn, 3, 1, 1), 3, 1, 1)[0]
    return byte(128 + 160 * torch.stack([soft[:, 4 : 4 + SIZE[0], f : f + SIZE[1]] for f in range(9)]))


def group_of(number, tricks, guidance=None):
    true = scene(number)
    actions = ACTIONS.commanded(torch.zeros(2, dtype=torch.long))
    candidates = torch.stack([trick(true) for trick in tricks])
    weights = None if guidance is None else torch.tensor(guidance)
    return Group(
        candidates, true[:0], true[0], actions, 4, truth=Truth(true, actions, true), guidance_G=weights
    )


def taught(tricks, steps=6):
    critic = Discriminator(QUICK)
    for step in range(steps):
        groups = [group_of(10 * step + n, tricks) for n in range(3)]
        critic.learn(critic.examples(groups, ("seed", step)), ("seed", step))
    return critic


@pytest.fixture(scope="module")
def knows_blur():
    return taught([blurred] * 4)


def test_it_abstains_until_it_tells_new_pairs_apart(knows_blur):
    group = group_of(99, [blurred, lambda x: x])
    assert not Discriminator()(group).valid_G.any()
    assert knows_blur(group).valid_G.all()


def test_a_candidate_like_the_engine_beats_its_unguided_sibling(knows_blur):
    scores = knows_blur(group_of(99, [blurred, lambda x: x, blurred], [0.0, 0.5, 1.0])).values_G
    assert scores[1] > 0.6
    torch.testing.assert_close(scores[[0, 2]], torch.full((2,), 0.5), atol=1e-3, rtol=0)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_new_trick_loses_after_it_was_seen(knows_blur):
    """A fixed judge that only knows blur may prefer sharpening for ever; this one learns."""
    critic = Discriminator(QUICK)
    critic.load({name: tensor.clone() for name, tensor in knows_blur.state().items()})
    fooled = critic(group_of(99, [lambda x: x, sharpened], [0.0, 1.0])).values_G[1]
    for step in range(20, 26):
        groups = [group_of(10 * step + n, [blurred, sharpened, sharpened, sharpened]) for n in range(3)]
        critic.learn(critic.examples(groups, ("seed", step)), ("seed", step))
    found = critic(group_of(99, [lambda x: x, sharpened, blurred], [0.0, 1.0, 1.0])).values_G
    assert found[1] < min(0.4, float(fooled))
    assert found[2] < 0.45  # the old trick is not forgotten


def test_accuracy_is_measured_before_it_learns_from_a_step():
    critic = Discriminator(QUICK)
    groups = [group_of(n, [blurred] * 4) for n in range(3)]
    pairs = critic.examples(groups, ("a",))
    before = critic.logits(torch.stack([scene(0), blurred(scene(0))])).detach()
    first = critic.learn(pairs, ("a",))["accuracy"]
    again = critic.learn(pairs, ("b",))["accuracy"]
    assert 0.2 < first < 0.8 or bool((before[:, 0] - before[:, 1]).abs().max() < 1)
    assert again > first


def test_what_is_saved_goes_on_bit_by_bit(knows_blur):
    saved = {name: tensor.clone() for name, tensor in knows_blur.state().items()}
    copies = [Discriminator(QUICK, seed=5) for _ in range(2)]
    group = group_of(99, [blurred, sharpened, lambda x: x], [0.0, 0.5, 1.0])
    for copy in copies:
        copy.load(saved)
        assert torch.equal(copy(group).values_G, knows_blur(group).values_G)
        pairs = copy.examples([group], ("next",))
        copy.learn(pairs, ("next",))
    a, b = (copy.state() for copy in copies)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["nets/0.patch.weight"], saved["nets/0.patch.weight"])


def test_an_empty_state_starts_over(knows_blur):
    critic = Discriminator(QUICK)
    fresh = {name: tensor.clone() for name, tensor in critic.state().items()}
    critic.load(knows_blur.state())
    critic.load({})
    assert all(torch.equal(fresh[name], tensor) for name, tensor in critic.state().items())


def test_a_pair_shows_the_same_time_and_place():
    group = group_of(3, [lambda x: x] * 6)
    pairs = pairs_of([group], ("any",))
    assert pairs.shape == (6, 2, 3, 3, *SIZE)
    assert torch.equal(pairs[:, 0], pairs[:, 1])
    assert len({pair.numpy().tobytes() for pair in pairs}) > 1  # several times of the chunk
    assert torch.equal(pairs, pairs_of([group], ("any",)))
    large = replace(group, frames_GF3hw=group.frames_GF3hw.repeat(1, 1, 1, 3, 3))
    true = large.frames_GF3hw[0]
    large = replace(large, truth=Truth(true, group.actions, true))
    assert pairs_of([large], ("any",)).shape[-2:] == (64, 64)


def test_groups_without_reachable_truth_teach_nothing():
    group = group_of(3, [blurred] * 2)
    blind = replace(group, truth=replace(group.truth, reachable_F3hw=None))
    critic = Discriminator()
    pairs = critic.examples([blind], ("any",))
    assert len(pairs) == 0
    assert critic.learn(pairs, ("any",)) == {}


def short(group, true_past=True):
    """The last frame alone, behind those before it."""
    last = Truth(group.truth.frames_F3hw[-1:], group.actions.latents(1, 2), group.truth.reachable_F3hw[-1:])
    return replace(
        group,
        frames_GF3hw=group.frames_GF3hw[:, -1:],
        past_frames_F3hw=group.truth.frames_F3hw[:-1],
        actions=group.actions.latents(1, 2),
        frames_per_latent=1,
        truth=last,
        true_past=true_past,
    )


def test_a_chunk_of_one_frame_is_seen_behind_the_frames_before_it(knows_blur):
    group = short(group_of(0, [lambda x: x, blurred]))
    pairs = pairs_of([group], ("seed",))
    assert pairs[:, :, :2].equal(scene(0)[-3:-1].expand(2, 2, -1, -1, -1, -1))
    assert pairs[0, 0].equal(pairs[0, 1]) and pairs[1, 0, 2].equal(scene(0)[-1])
    assert pairs[1, 1, 2].equal(blurred(scene(0))[-1])
    scores = knows_blur(group)
    assert scores.valid_G.all() and scores.values_G[0] > scores.values_G[1]
    assert not knows_blur(replace(group, past_frames_F3hw=group.past_frames_F3hw[:1])).valid_G.any()


def test_a_chunk_of_one_frame_teaches_after_a_true_past_alone():
    """After an imagined one, the real clip would jump from what was imagined to what is true."""
    group = short(group_of(0, [blurred] * 2), true_past=False)
    assert len(pairs_of([group], ("seed",))) == 0


def test_the_replay_holds_the_first_and_the_last_pairs_and_is_bounded():
    replay = Replay.of({})
    for step in range(40):
        new = torch.full((30, 2, 3, 3, 4, 4), step, dtype=torch.uint8)
        batch = replay.batch(new, 20, generator_for(step))
        assert len(batch) == 20
        replay.keep(new, generator_for("keep", step))
    steps = batch.flatten(1)[:, 0]
    assert (steps == 39).sum() == 10  # half are new
    assert (steps < 3).sum() == 4  # a fifth are the first ones
    assert len(replay.old) == OLD
    assert replay.old[0].max() == 30


@pytest.mark.parametrize(("view", "channels"), VIEWS)
def test_each_network_sees_something_else(view, channels):
    clips = chunk_clips(scene(1)[None])[0]
    assert view(clips).shape[1] == channels
    shade = byte(clips.float() * torch.tensor([1.02, 1.0, 0.9]).view(3, 1, 1))
    assert torch.isfinite(view(shade)).all()


def test_it_keeps_the_contract_of_learners():
    assert isinstance(Discriminator(), Learner)
    check_critic(Discriminator())
