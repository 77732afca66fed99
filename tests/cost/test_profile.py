"""The profile's parts add up to the step, nested parts count once, and operations match formulas."""

import dataclasses
import itertools
import json
import time
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toy_truth import ideal_engine, with_truth
from toy_worlds import Counting

from worldcompass import cli
from worldcompass.commands.profile import described, table
from worldcompass.cost.profile import CLOCKS, CPU_KERNELS, REST, Meter, profile
from worldcompass.errors import UnfitInputs
from worldcompass.rollout import computes_bf16
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.loop import train
from worldcompass.training.policy import Policy
from worldcompass.training.preflight import prepare
from worldcompass.training.rivals import dpo_loss, flow_grpo_loss, flow_matching_loss
from worldcompass.training.run import Parts
from worldcompass.training.selection import Learning, along_path, in_pairs
from worldcompass.worlds.small.transformer import feed_forward

CONFIG = Config(
    sampling=Sampling(prompts_per_step=2, group_size=4, last_chunk=1),
    learning=Learning(best=1, worst=1, noise_levels=2, updates_per_rollout=2),
)


def toy_parts(**changes):
    critics = [ToyObedience(), ToyCleanliness()]
    return Parts(ToyWorld(), critics, toy_scenarios(4), CONFIG.changed(**changes))


def test_a_nested_part_counts_only_for_itself():
    readings = iter([0, 1, 3, 6, 10, 15])
    meter = Meter(lambda: next(readings))
    meter.enter("rollout")
    meter.enter("decode")
    meter.leave()
    meter.leave()
    meter.record()
    assert meter.spent == {REST: 1 + 5, "rollout": 2 + 4, "decode": 3}


def test_time_after_the_objective_is_the_backward_pass():
    readings = iter(range(10))
    meter = Meter(lambda: next(readings))
    for part in ("objective", "optimiser"):
        meter.enter(part)
        meter.leave()
    meter.record()
    assert meter.spent == {REST: 2, "objective": 1, "backward, clipping": 1, "optimiser": 1}


def test_the_parts_are_those_of_the_method_and_add_up_to_the_step():
    found = profile(toy_parts(), step=2, repeats=1)
    assert found.chunk == 1
    assert sum(cost.seconds for cost in found.parts.values()) == pytest.approx(found.seconds)
    assert set(found.parts) == {
        "past", "candidates", "attend, remember", "decode", "rollout, rest", "reward obedience",
        "reward cleanliness", "targets", "forward", "objective", "backward, clipping", "optimiser", "averages",
        REST,
    }  # fmt: skip
    counted = {part for part, cost in found.parts.items() if cost.flops}
    assert {"past", "candidates", "targets", "forward", "backward, clipping"} <= counted
    assert not counted & {"decode", "averages", "reward cleanliness"}
    assert found.parts["backward, clipping"].flops > found.parts["forward"].flops
    assert json.loads(json.dumps(described(found)))["share_of_matrix_rate"]["decode"] == 0
    assert table(found)[-1].startswith("whole step")


def test_profiling_trains_as_the_run_itself_does(tmp_path):
    """The metered step is the step: after it the weights are those of a run's first step, bit by bit."""
    parts = toy_parts(steps=1, first_chunk=1)
    profile(parts, step=1, repeats=1)
    policy = train(ToyWorld(), parts.critics, parts.scenarios, parts.config, tmp_path, live=False)
    metered = Policy(parts.world.net).live
    assert all(torch.equal(parameter, metered[name]) for name, parameter in policy.live.items())


class Pupil(ToyObedience):
    """Learns from every step how often it was taught."""

    name = "pupil"
    needs = ("reachable",)

    def __init__(self):
        self.taught, self.seen = 0, []

    def __call__(self, group):
        self.seen.append(group.reachable() is not None)
        return super().__call__(group)

    def examples(self, groups, keys):
        return torch.zeros(len(groups), 1)

    def learn(self, examples, keys):
        self.taught += len(examples)
        return {}

    def state(self):
        return {}

    def load(self, state):
        self.taught = 0


def test_a_critic_learns_and_gets_what_it_needs_and_every_run_begins_with_it_untaught():
    pupil, world = Pupil(), ToyWorld()
    scenarios = with_truth(world, toy_scenarios(4))
    found = profile(Parts(world, [pupil], scenarios, CONFIG.changed(true_pasts=0.5)), step=2, repeats=2)
    assert {"reward pupil", "teach pupil"} <= set(found.parts)
    assert pupil.taught == CONFIG.sampling.prompts_per_step  # of the last of three runs alone
    assert all(pupil.seen[1:])  # the first one is the trial before the run


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_chunks": 2, "last_chunk": 0},
        {"stochastic": 0.7, "draw": along_path, "objective": flow_grpo_loss},
        {"draw": in_pairs, "objective": dpo_loss},
    ],
)
def test_recipes_whose_candidates_must_share_a_past_have_a_profile(changes):
    """The rollout is wrapped to be timed, and the rules of the configuration still know it."""
    assert "backward, clipping" in profile(toy_parts(**changes)).parts


def test_a_recipe_that_learns_from_recordings_is_profiled_without_rollout_and_critics():
    """The compared step of more pretraining: the same rows, the world's own video instead of candidates."""
    scenarios = with_truth(ideal_engine(), toy_scenarios(4))
    parts = toy_parts(teacher="recordings", objective=flow_matching_loss)
    recorded = profile(dataclasses.replace(parts, scenarios=scenarios), repeats=1)
    assert "encode" in recorded.parts and "backward, clipping" in recorded.parts
    assert not {"candidates", "past"} & set(recorded.parts) and not any("reward" in p for p in recorded.parts)
    assert 0 < recorded.passes < profile(toy_parts(), repeats=1).passes


def test_seconds_may_be_the_processors(monkeypatch):
    monkeypatch.setitem(CLOCKS, "cpu", itertools.count(0, 0.3).__next__)
    found = profile(toy_parts(), step=2, repeats=1, clock="cpu")
    assert found.clock == "cpu" and "cpu s, median of 1" in table(found)[0]
    assert found.seconds > 10  # 0.3 for every reading; by the wall a step of the toy takes less than one


def test_attention_on_a_cpu_is_counted():
    q, k, v = (torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        seen = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        forward = counter.get_total_flops()
        seen.sum().backward()
    product = 2 * 2 * 3 * 5 * 5 * 8  # one matrix product; attention has two, and five backwards
    assert (forward, counter.get_total_flops()) == (2 * product, 7 * product)


def test_bfloat16_is_refused_on_a_cpu_without_its_instructions(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with pytest.raises(UnfitInputs, match="this CPU has no instructions for bfloat16"):
        profile(toy_parts(autocast_bf16=True))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": True})
    assert computes_bf16(torch.device("cpu"))


def test_a_linear_layer_by_onednn_is_counted():
    up, down, x = torch.nn.Linear(6, 24), torch.nn.Linear(24, 6), torch.randn(2, 5, 6)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        feed_forward(up, down, x)
    assert counter.get_total_flops() == 2 * (2 * 10 * 6 * 24)


def test_the_command_prints_json_and_refuses_a_recipe_without_parts(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text("def bare():\n    from worldcompass.training.config import Config\n    return Config()\n")
    assert cli.main(["profile", f"{file}:bare"]) == cli.EXIT_USER_ERROR
    assert "give it a method parts(device)" in capsys.readouterr().err
    words = ["--repeats", "1", "--device", "cpu", "--set", "config.group_size=2", "--json"]
    assert cli.main(["profile", "worldplay_8b:smoke", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["passes"] > 0
        and found["parts"]["candidates"]["flops"] > 0
        and found["matrix_flops_per_second"] > 0
    )


@pytest.mark.parametrize("explore", [0.0, 1.0])
def test_all_compared_variants_take_the_same_step(explore, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import step

    parts = toy_parts(explore=explore, shared_noise=explore > 0)
    run = prepare(dataclasses.replace(parts, world=Counting()))
    forms = step.forms(parts.config.learning.micro_rows)
    changes = [step.take_step(run, form, 2, time.perf_counter)[1] for form in forms]
    assert changes[-1].any()
    for form, change in zip(forms, changes, strict=True):
        torch.testing.assert_close(change, changes[-1], atol=1e-6, rtol=1e-3, msg=form.name)
