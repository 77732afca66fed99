"""The whole loop on the toy: its steps are those of the method, resume bit by bit, and end cleanly."""

import itertools
import json
import os
import signal

import pytest
import torch
from toy_runs import TINY, critics, make_run

from worldcompass.errors import UnfitInputs, UserError
from worldcompass.rollout import RolloutRequest, imagine_groups, imagine_whole_videos
from worldcompass.runs.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from worldcompass.runs.metrics import read_metrics
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training import resume
from worldcompass.training.advantages import group_advantages
from worldcompass.training.curriculum import chunk_of_step, scenarios_of_step
from worldcompass.training.loop import train
from worldcompass.training.lora import Lora, LoraLinear
from worldcompass.training.optim import NonFiniteUpdate, adamw, muon, normalised_sgd
from worldcompass.training.scores import Verdicts
from worldcompass.training.selection import choose, interleave, share_out
from worldcompass.training.step import cache_targets, predict, train_step
from worldcompass.types import Scores

pytestmark = pytest.mark.usefixtures("one_thread")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows_without_seconds(folder):
    return [
        {k: v for k, v in row.to_json().items() if k != "seconds"}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.mark.parametrize(
    "change",
    [{}, {"make_optimizer": adamw}, {"make_optimizer": normalised_sgd}, {"lora": Lora(rank=2)}],
    ids=["muon", "adamw", "normalised_sgd", "lora"],
)
def test_four_steps_equal_two_and_two_resumed_bit_by_bit(change, tmp_path):
    config = TINY.changed(**change)
    straight = train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path / "a")
    train(ToyWorld(), critics(), toy_scenarios(5), config.changed(steps=2), tmp_path / "b")
    resumed = train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path / "b", resume=True)
    assert same(straight.state(), resumed.state())
    assert rows_without_seconds(tmp_path / "a") == rows_without_seconds(tmp_path / "b")


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    runs = []
    for i, seed in enumerate((0, 0, 1)):
        config = TINY.changed(seed=seed)
        runs.append(train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path / str(i)).state())
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


@pytest.mark.parametrize("change", [{"kl_weight": 0.5}, {"rollout": imagine_whole_videos}, {}])
def test_micro_batches_add_up_to_the_full_batch(change, tmp_path):
    results = []
    for micro_rows in (1, 5, 1000):
        config = TINY.changed(steps=2, micro_rows=micro_rows, **change)
        policy = train(ToyWorld(), critics(), toy_scenarios(4), config, tmp_path / str(micro_rows))
        results.append(policy.state())
    for other in results[1:]:
        for name, value in results[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-5, rtol=1e-4)


def test_batching_pasts_changes_memory_and_not_results(tmp_path):
    a, b = (
        train(ToyWorld(batches_pasts=both), critics(), toy_scenarios(4), TINY, tmp_path / str(both)).state()
        for both in (True, False)
    )
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, atol=2e-5, rtol=1e-4)


def shares(run, config):
    sigmas = run.world.spec.sigmas()
    scenarios = run.scenarios[:2]
    futures = imagine_groups(
        run.world, RolloutRequest(scenarios, 1, 4, config.sampling.group_size, (0,), sigmas)
    )
    verdicts = Verdicts(run.critics)
    verdicts.ask(futures[0].groups)
    values, valid, _ = verdicts.collect()
    advantages = group_advantages(values, valid, torch.ones(2), config.rewards.scale)
    chosen = choose(futures, scenarios, advantages, config.learning.best, config.learning.worst, (0,))
    parts = share_out(
        chosen,
        sigmas,
        config.learning.noise_levels,
        config.learning.updates_per_rollout,
        config.learning.micro_rows,
    )
    return futures[0], advantages, chosen, parts


def test_rows_are_the_chosen_candidates_at_distinct_levels_of_the_rollout():
    config = TINY.changed(group_size=6, best=2, worst=1, noise_levels=4, updates_per_rollout=1)
    run = make_run(config)
    futures, advantages, chosen, parts = shares(run, config)
    assert sum(len(rows.sigma_B) for rows in parts[0]) == 2 * 3 * 4
    samples = chosen[0].samples
    for p in range(2):
        order = advantages.ranking_NG[p].argsort(descending=True)
        for place, candidate in enumerate((order[0], order[5], order[1])):
            row = 3 * p + place
            assert torch.equal(samples.clean_BCKHW[row], futures.clean_BCKHW[6 * p + int(candidate)])
            assert samples.advantage_B[row] == advantages.advantage_NG[p, candidate]
    allowed = set(run.world.spec.sigmas()[:-1].tolist())
    rows = parts[0][0]
    for past in range(2):
        for s in range(3):
            mine = rows.sigma_B.view(2, 4, 3)[past, :, s].tolist()
            assert len(set(mine)) == 4 and set(mine) <= allowed
            assert torch.equal(
                rows.clean_BCKHW.unflatten(0, (2, 4, 3))[past, 2, s], samples.clean_BCKHW[3 * past + s]
            )


def test_every_update_sees_good_and_bad_futures():
    config = TINY.changed(group_size=8, best=2, worst=2, noise_levels=3, updates_per_rollout=6)
    parts = shares(make_run(config), config)[-1]
    assert len(parts) == 6
    for rows in itertools.chain(*parts):
        assert rows.advantage_B.min() < 0 < rows.advantage_B.max()


def test_interleaving_keeps_everyone():
    assert interleave(torch.arange(6)[None]).tolist() == [[0, 5, 1, 4, 2, 3]]
    assert interleave(torch.arange(5)[None]).tolist() == [[0, 4, 1, 3, 2]]


def test_targets_come_from_behaviour_and_reference_without_gradient():
    config = TINY.changed(kl_weight=1.0)
    run = make_run(config)
    with torch.no_grad():
        for weights, amount in ((run.policy.behaviour_weights, 0.1), (run.policy.reference_weights, -0.1)):
            for value in weights.values():
                value.add_(amount)
    parts = shares(run, config)[-1]
    rows = cache_targets(run, parts)[0][0]
    with run.policy.behaviour():
        assert torch.equal(rows.behaviour_BCKHW, predict(run, rows).detach())
    with run.policy.reference():
        assert torch.equal(rows.reference_BCKHW, predict(run, rows).detach())
    assert not torch.equal(rows.behaviour_BCKHW, predict(run, rows))
    assert not rows.behaviour_BCKHW.requires_grad
    measured = cache_targets(make_run(), shares(make_run(), TINY)[-1])
    assert [r.reference_BCKHW is not None for part in measured for r in part] == [True, False]


def test_the_behaviour_imagines_and_not_the_trained_weights():
    seen = []

    class Watching(ToyWorld):
        def begin(self, scenarios):
            seen.append(self.net.state_dict()["outer.bias"].clone())
            return super().begin(scenarios)

    run = make_run(world=Watching())
    with torch.no_grad():
        run.policy.behaviour_weights["outer.bias"].fill_(0.125)
    train_step(run, 1)
    assert all((bias == 0.125).all() for bias in seen) and seen


@pytest.mark.parametrize("bounds", [(0, 7), (2, 5), (3, 3)])
def test_the_curriculum_visits_every_chunk_of_its_range_and_no_other(bounds):
    config = TINY.changed(first_chunk=bounds[0], last_chunk=bounds[1])
    length = bounds[1] - bounds[0] + 1
    visited = [chunk_of_step(config.sampling, step) for step in range(1, 2 * length + 1)]
    assert visited == list(range(bounds[0], bounds[1] + 1)) * 2


def test_other_orders_visit_the_same_chunks_in_each_pass():
    down, mixed = (
        TINY.changed(first_chunk=1, last_chunk=6, order=order).sampling for order in ("down", "random")
    )
    assert [chunk_of_step(down, step) for step in range(1, 9)] == [6, 5, 4, 3, 2, 1, 6, 5]
    passes = [[chunk_of_step(mixed, 6 * p + step) for step in range(1, 7)] for p in range(4)]
    assert all(sorted(one) == [1, 2, 3, 4, 5, 6] for one in passes)
    assert len({tuple(one) for one in passes}) > 1  # and each pass has an order of its own


def test_random_candidates_depend_on_the_step_and_keep_their_advantages():
    config = TINY.changed(group_size=6, best=1, worst=1)
    run = make_run(config)
    futures, advantages, _, _ = shares(run, config)
    scenarios = run.scenarios[:2]

    def drawn(step):
        (chosen,) = choose([futures], scenarios, advantages, 1, 1, (0, step), pick="random")
        return chosen

    found = [drawn(step) for step in range(12)]
    assert torch.equal(found[3].samples.clean_BCKHW, drawn(3).samples.clean_BCKHW)
    for chosen in found:
        for row, keys in enumerate(chosen.row_keys):
            candidate = keys[-1]
            assert torch.equal(
                chosen.samples.clean_BCKHW[row], futures.clean_BCKHW[6 * (row // 2) + candidate]
            )
            assert chosen.samples.advantage_B[row] == advantages.advantage_NG[row // 2, candidate]
    assert {keys[-1] for chosen in found for keys in chosen.row_keys} == set(range(6))


def test_every_epoch_shuffles_and_uses_each_scenario_at_most_once():
    run = make_run()
    passes = [
        [
            s.id
            for step in range(3 * e + 1, 3 * e + 4)
            for s in scenarios_of_step(
                run.scenarios, run.config.sampling.prompts_per_step, run.config.seed, step
            )
        ]
        for e in range(3)
    ]
    assert all(sorted(ids) == sorted(s.id for s in run.scenarios) for ids in passes)
    assert passes[0] != passes[1]


@pytest.mark.parametrize("make_optimizer", [muon, adamw])
def test_a_constant_reward_changes_no_weight(make_optimizer, tmp_path):
    class Constant:
        name = "constant"

        def __call__(self, group):
            size = group.frames_GF3hw.shape[0]
            return Scores(torch.full((size,), 1 / 3), torch.ones(size, dtype=torch.bool))

    world = ToyWorld()
    config = TINY.changed(make_optimizer=make_optimizer)
    before = {n: p.detach().clone() for n, p in world.net.named_parameters()}
    rows = []
    train(world, [Constant()], toy_scenarios(4), config, tmp_path, on_step=lambda s, m, p: rows.append(m))
    assert rows[0].flat_groups == 1 and rows[0].applied == 0
    assert all(torch.equal(p, before[n]) for n, p in world.net.named_parameters())


def test_the_learning_rate_falls_on_a_line(tmp_path):
    """Steps at rates 1, 1/2 and 0 of ``lr``: the same first step as without, and a last one that does nothing."""
    weights: dict[float, list] = {1.0: [], 0.0: []}
    for end, seen in weights.items():
        config = TINY.changed(steps=3, lr_end=end, weight_decay=0.0, make_optimizer=adamw)

        def copy(step, metrics, policy, seen=seen):
            seen.append([p.detach().clone() for p in policy.parameters])

        train(ToyWorld(), critics(), toy_scenarios(4), config, tmp_path / str(end), on_step=copy)
    first, second, third = weights[0.0]
    assert all(map(torch.equal, first, weights[1.0][0]))
    assert not all(map(torch.equal, second, weights[1.0][1]))
    assert not all(map(torch.equal, first, second)) and all(map(torch.equal, second, third))


def test_metrics_tell_what_happened(tmp_path):
    seen = []
    train(
        ToyWorld(),
        critics(),
        toy_scenarios(4),
        TINY,
        tmp_path,
        on_step=lambda s, m, p: seen.append((s, m, p)),
    )
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [s for s, _, _ in seen] == [row.step for row in rows] == [1, 2, 3, 4]
    assert seen[-1][1] == rows[-1]
    assert set(rows[0].rewards) == {"obedience", "cleanliness"}
    assert None not in vars(rows[0].rewards["obedience"]).values()
    assert set(rows[0].seconds) == {"imagine", "score", "targets", "update", "vitals"}
    assert {"deviation", "error"} == set(rows[0].objective)
    assert None not in (rows[0].loss, rows[0].grad_norm, rows[0].flat_groups, rows[0].forward_passes)
    assert rows[0].kl_to_start < 1e-3 < rows[-1].kl_to_start


def test_distances_are_means_over_the_updates_that_measure_them(tmp_path):
    """Without anchors the first update alone predicts the reference: there the weights still are the start's."""
    config = TINY.changed(steps=1, updates_per_rollout=2, noise_levels=2, explore=0.0)
    train(ToyWorld(), critics(), toy_scenarios(6), config, tmp_path, live=False)
    first = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert first.velocity_norm == pytest.approx(1, abs=1e-5)
    assert first.contrast == pytest.approx(1, abs=1e-5)
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["learning"]["objective"] == "worldcompass.training.objective.nft_loss"


def test_a_non_finite_update_is_refused_and_the_checkpoint_stays(tmp_path):
    class Breaking(ToyWorld):
        broken = False

        def predict_clean(self, *args):
            clean = super().predict_clean(*args)
            return clean * torch.nan if self.broken and torch.is_grad_enabled() else clean

    world = Breaking()
    policies = []

    def on_step(step, metrics, policy):
        policies.append(policy)
        world.broken = step == 2

    with pytest.raises(NonFiniteUpdate, match="refused"):
        train(world, critics(), toy_scenarios(4), TINY, tmp_path, on_step=on_step)
    assert all(bool(p.isfinite().all()) for p in world.net.parameters())
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_000001", "step_000002"]


def adamw_without_eps(parameters, lr, weight_decay):
    """Divides 0 by 0 for every weight whose gradient is exactly 0, such as LoRA's first matrices at step 1."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, eps=0.0)


def test_an_update_that_breaks_the_weights_is_never_saved(tmp_path, capsys):
    """Loss and gradient are finite, what the optimiser makes of them is not."""
    config = TINY.changed(make_optimizer=adamw_without_eps, lora=Lora(rank=2, alpha=4, targets="inner|outer"))
    with pytest.raises(NonFiniteUpdate, match="weights that are not finite, so nothing of its step is saved"):
        train(ToyWorld(), critics(), toy_scenarios(4), config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_an_average_that_breaks_keeps_the_older_checkpoint(tmp_path):
    def spoil(step, metrics, policy):
        if step == 2:
            next(iter(policy.checkpoint_weights.values())).fill_(torch.inf)

    with pytest.raises(NonFiniteUpdate):
        train(ToyWorld(), critics(), toy_scenarios(4), TINY, tmp_path, on_step=spoil)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_000001", "step_000002"]


def test_a_checkpoint_of_broken_weights_is_passed_over(tmp_path):
    """As earlier versions saved them."""
    config = TINY.changed(keep_checkpoints=4)
    whole = train(ToyWorld(), critics(), toy_scenarios(4), config, tmp_path / "a").state()
    train(ToyWorld(), critics(), toy_scenarios(4), config, tmp_path / "b")
    newest = latest_checkpoint(tmp_path / "b" / "checkpoints")
    tensors, state = load_checkpoint(newest)
    name = next(name for name in tensors if name.startswith("policy/live/"))
    save_checkpoint(newest.parent, {**tensors, name: tensors[name] * torch.nan}, state, keep=4)
    with pytest.warns(UserWarning, match="step_000004 holds weights that are not finite; the one before"):
        again = train(ToyWorld(), critics(), toy_scenarios(4), config, tmp_path / "b", resume=True)
    assert all(torch.equal(whole[name], again.state()[name]) for name in whole)


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_finishes_and_saves_the_step_and_the_run_goes_on_exactly(tmp_path):
    config = TINY.changed(save_every=100)
    straight = train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path / "a")

    class Pressing(ToyObedience):
        calls = 0

        def __call__(self, group):
            self.calls += 1
            if self.calls == 4:  # one before the run, two in its first step
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(group)

    with pytest.raises(KeyboardInterrupt, match="after step 2"):
        train(ToyWorld(), [Pressing(), ToyCleanliness()], toy_scenarios(5), config, tmp_path / "b")
    resumed = train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path / "b", resume=True)
    assert same(straight.state(), resumed.state())


def test_resuming_needs_the_same_run_and_starting_an_empty_folder(tmp_path):
    train(ToyWorld(), critics(), toy_scenarios(5), TINY, tmp_path)
    with pytest.raises(UserError, match="already holds a run"):
        train(ToyWorld(), critics(), toy_scenarios(5), TINY, tmp_path)
    other = TINY.changed(lr=0.5)
    with pytest.raises(UserError, match=r"lr: 0.03 -> 0.5"):
        train(ToyWorld(), critics(), toy_scenarios(5), other, tmp_path, resume=True)
    with pytest.raises(UserError, match="scenarios"):
        train(ToyWorld(), critics(), toy_scenarios(6), TINY, tmp_path, resume=True)


def test_a_run_that_is_older_than_a_setting_goes_on_with_its_default(tmp_path, monkeypatch):
    known, half = resume.identity, TINY.changed(steps=2)
    with monkeypatch.context() as older:
        older.setattr(
            resume, "identity", lambda run: {k: v for k, v in known(run).items() if k != "reward_clip"}
        )
        train(ToyWorld(), critics(), toy_scenarios(5), half, tmp_path)
    train(ToyWorld(), critics(), toy_scenarios(5), TINY, tmp_path, resume=True)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == TINY.steps
    other = TINY.changed(reward_clip=1.0)
    assert resume.differences({}, {"reward_clip": 1.0}, TINY.settings()) == {"reward_clip": [None, 1.0]}
    with pytest.raises(UserError, match=r"reward_clip: null -> 1.0"):
        train(ToyWorld(), critics(), toy_scenarios(5), other, tmp_path, resume=True)


def test_resuming_an_empty_folder_begins(tmp_path):
    train(ToyWorld(), critics(), toy_scenarios(5), TINY, tmp_path, resume=True)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4


def test_chunks_of_one_latent_can_be_trained(tmp_path):
    config = TINY.changed(chunk_length=1, first_chunk=1, last_chunk=3, make_optimizer=muon)
    policy = train(ToyWorld(), critics(), toy_scenarios(5), config, tmp_path)
    assert not same(policy.behaviour_weights, policy.reference_weights)


def test_parameters_that_are_not_named_stay_as_they_are(tmp_path):
    world = ToyWorld()
    before = {name: p.detach().clone() for name, p in world.net.named_parameters()}
    train(world, critics(), toy_scenarios(5), TINY.changed(trained="outer.*"), tmp_path)
    changed = {name for name, p in world.net.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(name.startswith("outer") for name in changed)
    with pytest.raises(
        UnfitInputs, match="trained='nothing' matches no parameter's whole name; layers are inner"
    ):
        train(ToyWorld(), critics(), toy_scenarios(5), TINY.changed(trained="nothing"), tmp_path / "none")
    with pytest.raises(ValueError, match="trained must be a regular expression"):
        TINY.changed(trained="(")


def test_lora_trains_adapters_alone(tmp_path):
    world = ToyWorld()
    before = world.net.outer.weight.detach().clone()
    train(
        world,
        critics(),
        toy_scenarios(5),
        TINY.changed(lora=Lora(rank=2, targets="outer")),
        tmp_path,
    )
    assert isinstance(world.net.outer, LoraLinear) and torch.equal(world.net.outer.base.weight, before)
    assert world.net.outer.lora_B.any()
