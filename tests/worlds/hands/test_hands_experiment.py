"""The whole experiment on the Hands world, tiny, with MuJoCo and GL out of reach: every file that it promises."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from worldcompass import cli
from worldcompass.commands._worlds import world_of
from worldcompass.commands.demo import _recipe_of
from worldcompass.errors import UserError
from worldcompass.evaluate import KINDS, MEASURES
from worldcompass.recipes.hands_demo import hands_demo
from worldcompass.recipes.hands_full import hands_full
from worldcompass.worlds.hands import evaluation, experiment, gl, judging
from worldcompass.worlds.hands.experiment import training_parts
from worldcompass.worlds.hands.footage import shipped_scenarios
from worldcompass.worlds.hands.world import WEIGHTS, load_hands_world


def tiny():
    recipe = hands_demo()
    config = recipe.config.changed(steps=1, prompts_per_step=2, group_size=2, best=1, worst=1,
        last_chunk=1, denoising_steps=2, noise_levels=1, updates_per_rollout=1, save_every=1,
    )  # fmt: skip
    return replace(recipe, config=config, scenario_latents=8, evaluation_latents=8)


def few(latents, unseen=True):
    wanted = [f"heldout/{kind}/{i}" for kind in KINDS for i in (0, 1)] + ["unseen_looks/basic/0"]
    return [s for s in shipped_scenarios("evaluation", latents) if s.id in wanted]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    patch = pytest.MonkeyPatch()
    patch.setitem(sys.modules, "mujoco", None)
    patch.setattr(gl, "open_renderer", None)
    patch.setattr(experiment, "fixed_scenarios", few)
    out = tmp_path_factory.mktemp("run") / "hands_demo"
    tiny().run(out, "cpu", resume=False)
    yield out
    patch.undo()


def test_a_run_without_any_engine_has_all_results(run_dir):
    results = json.loads((run_dir / "results.json").read_text())
    for side in ("engine", "base", "trained", "difference"):
        for kind in KINDS:
            assert set(results[side][kind]) == {*MEASURES, "permanence", "nearness"}
    assert results["engine"]["basic"]["permanence"]["mean"] == 1.0
    assert set(results["gap_closed"]) == set(KINDS)
    assert (run_dir / "before_after.mp4").is_file() and (run_dir / "report.html").is_file()
    assert len(list((run_dir / "filmstrips").glob("*.png"))) == 4
    assert load_hands_world(run_dir / "weights").net is not None


def test_resuming_a_finished_run_repeats_its_numbers_and_others_are_refused(run_dir):
    before = json.loads((run_dir / "results.json").read_text())
    tiny().run(run_dir, "cpu", resume=True)
    assert json.loads((run_dir / "results.json").read_text())["trained"] == before["trained"]
    with pytest.raises(UserError, match="a run with other settings"):
        replace(tiny(), permanence_weight=3.0).run(run_dir, "cpu", resume=True)


@pytest.mark.parametrize(
    ("change", "words"), [({"chunk_length": 3}, "chunk_length is 3"), ({"last_chunk": 9}, "lower last_chunk")]
)
def test_settings_that_do_not_fit_are_refused_before_the_base_is_evaluated(
    change, words, tmp_path, monkeypatch
):
    monkeypatch.setattr(experiment, "fixed_scenarios", few)
    recipe = tiny()
    with pytest.raises(UserError, match=words):
        replace(recipe, config=recipe.config.changed(**change)).run(tmp_path / "out", "cpu", resume=False)
    assert not (tmp_path / "out").exists()


def test_only_critics_that_weigh_take_part_and_instructions_can_be_rewarded():
    names = [critic.name for critic in training_parts(tiny(), "cpu").critics]
    assert names == ["interaction", "likeness"]
    parts = training_parts(replace(tiny(), instruction_weight=1.0), "cpu")
    assert parts.config.rewards.weights["instruction"] == 1.0
    assert sum(bool(scenario.instruction) for scenario in parts.scenarios) == 12


def test_the_demo_offers_both_worlds_and_hands_is_the_usual_one(capsys, tmp_path):
    assert _recipe_of("doom")[0] == "demo" and _recipe_of("hands")[0] == "hands_demo"
    said = []
    for extra in ([], ["--world", "hands"], ["--world", "doom"]):
        assert cli.main(["demo", "--dry-run", "--out", str(tmp_path / "run"), *extra]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2] and "40 steps" in said[0]
    assert hands_full().members == 4 and hands_full().instruction_weight > 0


def test_horizons_and_numbers_of_scenarios_that_hands_lacks_are_one_sentence(tmp_path, capsys):
    arguments = ["evaluate", "--world", "hands", "--frames", "253", "--out", str(tmp_path / "e")]
    assert cli.main(arguments) == 2
    assert "rollouts of Hands have 125 frames, got 253" in capsys.readouterr().err
    assert tuple(evaluation.HORIZONS) == (125,)
    with pytest.raises(UserError, match="8 to 24 scenarios"):
        judging.scenes("judge", 30)


def test_the_judge_has_as_many_other_episodes_as_scenarios():
    found = judging.scenes("judge", 8)
    assert len(found.scenarios) == len(found.others) == len(set(found.groups)) == 8
    assert {s.kind for s in found.scenarios} == set(KINDS)
    assert {len(s.actions) for s in (*found.scenarios, *found.others)} == {judging.LATENTS}


def test_commands_find_the_world_of_a_run_by_its_weights(run_dir, tmp_path):
    assert world_of(None, [run_dir]) == world_of(None, [None, run_dir / "weights"]) == "hands"
    assert world_of(None, []) == world_of(None, [tmp_path]) == world_of("doom", [run_dir]) == "doom"


def test_a_demo_of_another_world_is_not_taken_for_an_older_one(run_dir, tmp_path, capsys):
    before = (
        tmp_path / "before"
    )  # a finished run whose record does not name its world, as earlier versions wrote it
    (before / "weights").mkdir(parents=True)
    shutil.copy(run_dir / "weights" / WEIGHTS.net, before / "weights")
    record = json.loads((run_dir / "run.json").read_text())
    assert record.pop("world") == "hands"
    (before / "run.json").write_text(json.dumps(record))
    for folder in (run_dir, before):
        assert cli.main(["demo", "--world", "doom", "--out", str(folder)]) == 2
        assert "holds a run of another world than doom" in capsys.readouterr().err
