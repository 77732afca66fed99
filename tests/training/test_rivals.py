"""Flow-GRPO and DPO: their losses against the papers' velocity forms, rows, runs, and refusals."""

import dataclasses
import json
import math

import pytest
import torch
from toy_runs import QUICK, TINY, critics, make_run
from toy_worlds import FewSteps

from worldcompass.errors import UserError
from worldcompass.noise import StochasticStep
from worldcompass.rollout import RolloutRequest, imagine_groups, imagine_whole_videos
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.training.loop import train
from worldcompass.training.policy import Decay, Policy
from worldcompass.training.rivals import dpo_loss, flow_grpo_loss
from worldcompass.training.run import Run
from worldcompass.training.selection import Chosen, along_path, at_first, in_pairs, share_out
from worldcompass.training.step import backward, cache_targets, passes_of_updates, train_step
from worldcompass.types import Samples

SHAPE = (4, 2, 3, 2, 2)
GRPO = {
    "objective": flow_grpo_loss, "draw": along_path, "stochastic": 0.7, "beta": 0.05,
    "behaviour_decay": Decay(0.0, 0.0, 0.0),
}  # fmt: skip
DPO = {"objective": dpo_loss, "draw": in_pairs, "opponent": "start", "beta": 2.0}
BOTH = pytest.mark.parametrize("change", [GRPO, DPO], ids=["grpo", "dpo"])


def numbers(seed=0, count=4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def log_probability(after, x, v, s, next_s, size):
    """Of one step in the paper's words: a Gaussian around the drift of the SDE; the mean over its dimensions."""
    w, dt = size * math.sqrt(s / (1 - s)), next_s - s
    mean = x + (v + w**2 / (2 * s) * (x + (1 - s) * v)) * dt
    deviation = w * math.sqrt(-dt)
    return (-((after - mean) ** 2) / (2 * deviation**2) - math.log(deviation * math.sqrt(2 * math.pi))).mean()


def test_flow_grpo_and_its_gradient_equal_the_papers_form():
    size, clip, levels = 0.7, 0.001, [(0.9, 0.7), (0.8, 0.5), (0.5, 0.2), (0.3, 0.1)]
    x, v, v_old, noise = numbers()
    v = (v_old + 0.02 * v).requires_grad_()
    advantage = torch.tensor([1.0, -0.4, -1.0, 0.7]).double()
    steps = [StochasticStep.between(*pair, size) for pair in levels]
    theirs, after = [], []
    for i, (s, next_s) in enumerate(levels):
        w = size * math.sqrt(s / (1 - s))
        drift = v_old[i] + w**2 / (2 * s) * (x[i] + (1 - s) * v_old[i])
        after.append(x[i] + drift * (next_s - s) + w * math.sqrt(s - next_s) * noise[i])
        now, before = (log_probability(after[i], x[i], own[i], s, next_s, size) for own in (v, v_old))
        ratio = (now - before).exp()
        clipped = ratio.clamp(1 - clip, 1 + clip)
        theirs.append(-min(ratio * advantage[i], clipped * advantage[i]))
    theirs = torch.stack(theirs)
    s, unit = (torch.tensor(values).double().view(-1, 1, 1, 1, 1) for values in (
        [pair[0] for pair in levels], [step.unit for step in steps]))  # fmt: skip
    target = torch.stack([step.target(x[i], after[i]) for i, step in enumerate(steps)])
    ours, metrics = flow_grpo_loss((x - s * v) / unit, (x - s * v_old) / unit, target / unit, advantage, clip)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), v)[0], torch.autograd.grad(theirs.sum(), v)[0])
    assert 0 < metrics["at_clip"].sum() < 4  # both sides of the clip are tried


def test_dpo_and_its_gradient_equal_the_papers_form():
    v, v_start, noise, x0 = numbers(1)
    noise = noise[0::2].repeat_interleave(2, 0)  # a pair shares it
    sigma, beta = torch.tensor([0.8, 0.8, 0.3, 0.3]).double(), 3.0
    v.requires_grad_()
    theirs = []
    for winner, loser in ((0, 1), (2, 3)):
        gained = []
        for row in (winner, loser):
            wanted = noise[row] - x0[row]
            gained.append(((wanted - v[row]) ** 2).mean() - ((wanted - v_start[row]) ** 2).mean())
        theirs.append(-torch.sigmoid(-beta / 2 * (gained[0] - gained[1])).log())
    theirs = torch.stack(theirs)
    s = sigma.view(-1, 1, 1, 1, 1)
    x_t = (1 - s) * x0 + s * noise
    advantage = torch.tensor([1.0, -1.0, 0.2, 0.1]).double()
    ours, _ = dpo_loss((x_t - s * v) / s, (x_t - s * v_start) / s, x0 / s, advantage, beta)
    torch.testing.assert_close(ours, theirs.repeat_interleave(2))
    torch.testing.assert_close(
        torch.autograd.grad(ours.mean(), v)[0], torch.autograd.grad(theirs.mean(), v)[0]
    )


def test_a_step_against_the_gradient_makes_the_better_candidate_likelier():
    pred, behaviour, target, _ = numbers(2)
    pred = behaviour.clone().requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5]).double()
    for loss in (flow_grpo_loss, dpo_loss):
        gradient = torch.autograd.grad(loss(pred, behaviour, target, advantage, 0.5)[0].sum(), pred)[0]
        moved = pred.detach() - 1e-3 * gradient
        gained = ((behaviour - target).square() - (moved - target).square()).mean((1, 2, 3, 4))
        assert (gained.sign() == advantage.sign()).all(), loss.__name__


def test_a_ratio_beyond_the_clip_no_longer_pulls_and_equals_have_no_winner():
    _, behaviour, target, _ = numbers(3)
    near = (behaviour + 0.5 * (target - behaviour)).requires_grad_()
    loss, metrics = flow_grpo_loss(near, behaviour, target, torch.ones(4).double(), 0.05)
    assert (metrics["at_clip"] == 1).all() and (metrics["ratio"] > 1.05).all()
    assert torch.autograd.grad(loss.sum(), near)[0].abs().max() == 0
    loss, _ = dpo_loss(near, behaviour, target, torch.tensor([0.3, 0.3, 0.0, 0.0]).double(), 1.0)
    assert (loss == 0).all() and torch.autograd.grad(loss.sum(), near)[0].abs().max() == 0


def test_given_latents_enter_neither_loss():
    pred, behaviour, target, other = numbers(4)
    given = torch.tensor([True, False, False])
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5]).double()
    changed = torch.where(given[:, None, None], other, target)
    for loss in (flow_grpo_loss, dpo_loss):
        a, b = (loss(pred, behaviour, t, advantage, 0.5, given)[0] for t in (target, changed))
        assert torch.equal(a, b), loss.__name__


def chosen_of(world, size):
    """All four candidates of two groups, with their path if the rollout is stochastic."""
    sigmas = world.spec.sigmas()
    request = RolloutRequest(toy_scenarios(2), 1, 4, 4, (0,), sigmas, stochastic=size)
    (futures,) = imagine_groups(world, request)
    samples = Samples(futures.clean_BCKHW, torch.ones(8), futures.actions, futures.context)
    return Chosen(samples, [("row", b) for b in range(8)], futures.path), sigmas


def test_rows_along_the_path_are_the_steps_that_were_taken():
    world = ToyWorld()
    chosen, sigmas = chosen_of(world, 0.7)
    assert torch.equal(chosen.path.states_SBCKHW[-1], chosen.samples.clean_BCKHW)
    (update,) = share_out([chosen], sigmas, 5, 1, 1000, along_path)
    (rows,) = update
    assert len(rows.sigma_B) == 2 * 4 * 5
    levels = sigmas.tolist()
    for b in range(len(rows.sigma_B)):
        place = levels.index(rows.sigma_B[b])
        candidate = 4 * (b // 20) + b % 4
        step = StochasticStep.between(levels[place], levels[place + 1], 0.7)
        states = chosen.path.states_SBCKHW[:, candidate]
        assert torch.equal(rows.noisy_BCKHW[b], states[place])
        reached = step.of_noisy * rows.noisy_BCKHW[b] + step.of_clean * rows.clean_BCKHW[b]
        torch.testing.assert_close(reached, states[place + 1], atol=1e-5, rtol=1e-5)
    assert 0.0 not in rows.sigma_B and levels[-2] not in rows.sigma_B.tolist()  # the last step has no noise
    with torch.no_grad():
        mean = world.predict_clean(rows.noisy_BCKHW, rows.sigma_B, rows.actions, rows.context)
    drawn = ((rows.clean_BCKHW - mean) / rows.unit_B.view(-1, 1, 1, 1, 1)).flatten()
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05  # the noise of the steps, in deviations


def test_pairs_share_levels_and_noise_and_stay_together():
    chosen, sigmas = chosen_of(ToyWorld(), 0.0)
    for micro_rows in (1, 6, 1000):
        updates = share_out([chosen], sigmas, 3, 2, micro_rows, in_pairs)
        every = [rows for update in updates for rows in update]
        assert sum(len(rows.sigma_B) for rows in every) == 2 * 4 * 3
        for rows in every:
            assert torch.equal(rows.sigma_B[0::2], rows.sigma_B[1::2])
            s = rows.sigma_B.view(-1, 1, 1, 1, 1)
            noise = (rows.noisy_BCKHW - (1 - s) * rows.clean_BCKHW) / s
            torch.testing.assert_close(noise[0::2], noise[1::2], atol=1e-4, rtol=1e-4)
            assert not torch.equal(rows.clean_BCKHW[0::2], rows.clean_BCKHW[1::2])


def test_rows_of_noise_alone_are_alike_in_a_past_and_differ_elsewhere():
    chosen, sigmas = chosen_of(ToyWorld(), 0.0)
    ((rows,),) = share_out([chosen], sigmas, 2, 1, 1000, at_first)
    assert rows.sigma_B.tolist() == [1.0] * (2 * 4 * 2) and rows.alike == 4
    noises = rows.noisy_BCKHW.flatten(1).unflatten(0, (2 * 2, 4))  # past and level, sample
    assert torch.equal(noises, noises[:, :1].expand_as(noises))
    assert torch.cdist(noises[:, 0], noises[:, 0]).add(torch.eye(4)).min() > 0.1
    assert len(rows.clean_BCKHW.flatten(1).unique(dim=0)) == 2 * 4


@pytest.mark.parametrize("micro_rows", [1, 2, 3, 1000])
def test_one_prediction_for_rows_that_are_alike_leaves_the_gradient_as_it_is(micro_rows):
    run = make_run(
        dataclasses.replace(TINY, steps=1).changed(draw=at_first, noise_levels=3, updates_per_rollout=1)
    )
    chosen, sigmas = chosen_of(run.world, 0.0)
    chosen.samples.advantage_B[::3] = -0.5
    shared = share_out([chosen], sigmas, 3, 1, micro_rows, at_first)
    assert sum(len(rows.sigma_B) for rows in shared[0]) == 2 * 4 * 3
    assert {rows.alike for rows in shared[0]} == {4}
    apart = [[dataclasses.replace(rows, alike=1) for rows in shared[0]]]
    found = []
    for updates in (shared, apart):
        backward(run, cache_targets(run, updates)[0])
        found.append([p.grad.clone() for p in run.policy.parameters])
    assert all(part.abs().max() > 0 for part in found[0])
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)
    targets = 2 * 2 * 3 if micro_rows == 1000 else 2 * 3 + 2 * max(1, micro_rows // 2)
    assert passes_of_updates(cache_targets(run, shared)) == 3 * 2 * 3 + targets


def test_the_first_update_has_a_ratio_of_one_and_no_preference():
    for change, name, value in ((GRPO, "ratio", 1.0), (DPO, "preferred", 0.0)):
        config = TINY.changed(updates_per_rollout=1, **change)
        world = ToyWorld()
        policy = Policy(world.net)
        optimizer = config.optimiser.make_optimizer(policy.parameters, 0.01, 0.0)
        found = train_step(Run(world, critics(), toy_scenarios(6), config, policy, optimizer), 1)
        assert found.objective[name] == value


@BOTH
def test_a_resumed_run_equals_the_uninterrupted_one(change, tmp_path):
    config = TINY.changed(**change)
    straight = train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path / "a").state()
    train(ToyWorld(), critics(), toy_scenarios(5), config.changed(steps=2), tmp_path / "b")
    again = train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path / "b", resume=True).state()
    assert all(torch.equal(straight[name], again[name]) for name in straight)


@BOTH
def test_micro_batches_change_memory_and_not_results(change, tmp_path):
    states = [
        train(
            ToyWorld(), critics(), toy_scenarios(4), TINY.changed(steps=2, micro_rows=rows, **change),
            tmp_path / str(rows),
        ).state()
        for rows in (2, 1000)
    ]  # fmt: skip
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=2e-5, rtol=1e-4)


@BOTH
def test_the_pull_to_the_start_can_be_added(change, tmp_path):
    config = TINY.changed(steps=1, kl_weight=0.1, **change)
    train(ToyWorld(), critics(), toy_scenarios(4), config, tmp_path)
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert math.isfinite(row["loss"]) and row["kl_to_start"] >= 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"objective": flow_grpo_loss}, "flow_grpo_loss and draw=along_path need each other"),
        ({"draw": in_pairs}, "dpo_loss and draw=in_pairs"),
        ({"objective": flow_grpo_loss, "draw": along_path}, "set stochastic, such as 0.7"),
        ({**GRPO, "explore": 1.0}, "guided steps are not the policy's own"),
        ({**GRPO, "rollout": imagine_whole_videos}, "stochastic needs candidates that share a past"),
        ({**DPO, "rollout": imagine_whole_videos}, "candidates that share a past, all in one process"),
        ({**DPO, "best": 2}, "as many of the worst as of the best"),
        ({**DPO, "pick": "random"}, "needs pick=extremes"),
        ({**DPO, "group_size": 1}, "group_size must be at least 2"),
        ({"stochastic": -0.1}, "stochastic must not be negative"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, why):
    with pytest.raises(ValueError, match=why):
        TINY.changed(**change)


def test_a_world_that_cannot_be_stochastic_or_has_too_few_steps_is_refused(tmp_path):
    with pytest.raises(UserError, match="but toy jumps from fresh noise to clean pictures, as distilled"):
        train(FewSteps(), critics(), toy_scenarios(4), TINY.changed(**GRPO), tmp_path)
    few = dataclasses.replace(TINY, steps=1).changed(**GRPO, denoising_steps=3, noise_levels=3)
    with pytest.raises(
        UserError, match="expected at most 2: of the 3 steps of a stochastic rollout the last"
    ):
        train(ToyWorld(), critics(), toy_scenarios(4), few, tmp_path)
    assert QUICK.sampling.stochastic == 0
