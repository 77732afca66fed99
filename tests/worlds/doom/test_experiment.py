"""The whole experiment on the embedded world, tiny: every file it promises, resume, refusal of a second start."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from pages import ROOT, follow

from worldcompass import cli
from worldcompass.commands import evaluate
from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, KINDS, MEASURES
from worldcompass.recipes.demo import demo
from worldcompass.report.export import AVERAGE, export_run
from worldcompass.runs.checkpoint import load_checkpoint
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.results import read_results
from worldcompass.ways import Walking
from worldcompass.worlds.doom import evaluation, experiment
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans
from worldcompass.worlds.doom.world import SPEC, WEIGHTS, DoomWorld, load_doom_world
from worldcompass.worlds.small.post_training import evaluation as measuring
from worldcompass.worlds.small.post_training import experiment as running


def tiny():
    recipe = demo()
    config = recipe.config.changed(steps=2, prompts_per_step=2, group_size=2, best=1, worst=1,
        last_chunk=1, denoising_steps=2, noise_levels=1, updates_per_rollout=1, save_every=1,
    )  # fmt: skip
    return replace(recipe, config=config, scenarios_per_map=1, scenario_latents=8, evaluation_latents=8)


ROLLOUT, PLAY = Walking(4, 2), Walking(1, 1)


@pytest.fixture(scope="module", autouse=True)
def quick_world():
    """The embedded world with a quarter of its denoising steps."""
    with pytest.MonkeyPatch.context() as patch:
        schedule = replace(SPEC.schedule, num_steps=ROLLOUT.num_steps)
        patch.setattr(DoomWorld, "spec", replace(SPEC, schedule=schedule, play=PLAY))
        yield


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    starts = ("heldout/my_way_home", "unseen/multi_deathmatch")
    ids = {f"{starts[0]}/{kind}/{number}" for kind in KINDS for number in (0, 1)}
    ids |= {f"{starts[1]}/{kind}/0" for kind in KINDS}
    plans = [p for p in evaluation_plans() if p.id in ids]
    patch = pytest.MonkeyPatch()
    patch.setattr(experiment, "evaluation_plans", lambda _=None: plans)
    out = tmp_path_factory.mktemp("run") / "demo"
    tiny().run(out, "cpu", resume=False)
    yield out
    patch.undo()


def test_results_have_the_schema(run_dir):
    results = json.loads((run_dir / "results.json").read_text())
    assert results["schema"] == 2 and len(results["scenarios_hash"]) == 64 and results["seconds"] > 0
    for side in ("engine", "base", "trained", "difference"):
        for kind in KINDS:
            assert set(results[side][kind]) == set(MEASURES)
            for value in results[side][kind].values():
                assert value["n"] == 2 and value["ci95"][0] <= value["mean"] <= value["ci95"][1]
    assert set(results["gap_closed"]) == set(KINDS)
    assert results["forward_passes"]["whole_video"] > results["forward_passes"]["clip_level"]
    assert set(results["unseen_maps"]["base"]) == set(KINDS)
    asked = [sum(chunk) for chunk in results["per_action"]["trained"]["asked"]]
    assert asked[1] * 3 == asked[0] * 4 > 0


def test_both_ways_of_walking_are_measured_and_named(run_dir, capsys):
    """The way ``play`` is measured on every second scenario of a map and a kind."""
    results = read_results(RunFolder(run_dir).results)
    assert results.walking == {"rollout": ROLLOUT, "play": PLAY}
    found = results.evaluation.by_way()
    for side in ("engine", "base", "trained", "difference"):
        for kind in KINDS:
            scores = [found[way].score(side, kind, FOLLOWED) for way in ("rollout", "play")]
            assert [score.n for score in scores] == [2, 1]
            assert found["play"].unseen.score(side, kind, FOLLOWED).known
    assert found["play"].count("base", "basic").commanded == 7 and found["rollout"].base != found["play"].base
    assert found["rollout"].count("trained", "combined").commanded == 14
    shown = [line.split()[:2] for line in table_of_run(run_dir, results, capsys).splitlines()]
    assert [line for line in shown if line[:1] in (["rollout"], ["play"])] == [
        [way, kind] for way in ("rollout", "play") for kind in KINDS
    ]


def table_of_run(run_dir, results, capsys):
    """The table that a run prints last."""
    capsys.readouterr()
    running.headline(results, RunFolder(run_dir), run_dir / "report.html", "worldcompass train longer")
    return capsys.readouterr().out


def test_a_finished_run_names_the_player_and_a_longer_recipe(run_dir, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")  # as where output is no terminal
    results = read_results(run_dir / "results.json")
    said = " ".join(table_of_run(run_dir, results, capsys).split())
    assert f"worldcompass play --after {run_dir}, or worldcompass train longer." in said
    assert "…" not in said, "no column is cut"


def test_forward_passes_are_counted_for_the_runs_own_sizes(run_dir):
    """2 scenarios, 2 guided candidates (two passes a step), 2 denoising steps, chunks 0 and 1: by hand.

    One scenario of chunk 1 begins after the engine's own chunk, which is remembered and not imagined.
    """
    passes = json.loads((run_dir / "results.json").read_text())["forward_passes"]
    chunk_0 = 2 * 2 * 2 * 2
    chunk_1 = (2 + 2 * 2 * 2 + 1) + (1 + 2 * 2 * 2 + 1)
    assert passes["clip_level"] == chunk_0 + chunk_1
    assert passes["whole_video"] == chunk_0 + 2 * 2 * (2 + 2 * 2 + 1)


def test_the_tutorial_of_the_first_run_reads_it(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(run_dir)
    page = ROOT / "docs" / "your_first_run.md"
    follow(page, skip=("demo", "judge", "train hands_demo --set", "report runs/demo runs/obey"))
    said = capsys.readouterr().out
    assert "of actions followed before" in said
    assert "2 {'interaction'" in said and "steps)" in said and "interaction_weight" in said


def test_video_page_and_weights_are_there(run_dir):
    with av.open(str(run_dir / "before_after.mp4")) as container:
        frames = sum(1 for _ in container.decode(video=0))
        assert container.streams.video[0].codec_context.name == "h264"
    assert frames == 29
    page = (run_dir / "report.html").read_text()
    assert "<video" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert load_doom_world(run_dir / "weights").net is not None
    assert len(list((run_dir / "filmstrips").glob("*.png"))) >= 2


def test_the_folder_of_a_run_is_not_used_twice(run_dir):
    with pytest.raises(UserError, match="already holds a run: resume it with --resume"):
        tiny().run(run_dir, "cpu", resume=False)
    other = replace(tiny(), quality_weight=5.0)
    with pytest.raises(UserError, match="a run with other settings"):
        other.run(run_dir, "cpu", resume=True)


@pytest.mark.parametrize("noted", [{}, {"weights": "2"}])
def test_a_run_from_other_weights_is_refused(noted, tmp_path):
    """Its checkpoints are of another base, and its measurements too; before they were noted there was version 3."""
    out = tmp_path / "run"
    running.claim_run(experiment.ground(), RunFolder(out), tiny(), resume=False)
    facts = json.loads((out / "run.json").read_text())
    assert facts.pop("weights") == WEIGHTS.version
    (out / "run.json").write_text(json.dumps({**facts, **noted}))
    said = f"weights of version {noted.get('weights', '3')}, the package holds version {WEIGHTS.version}"
    with pytest.raises(UserError, match=said):
        tiny().run(out, "cpu", resume=True)


def test_accepted_settings_are_recorded_and_stale_measures_repeated(run_dir, tmp_path):
    out = tmp_path / "run"
    sides = [f"evaluation_{side}{way}.json" for side in ("base", "trained") for way in ("", "_play")]
    for name in ("run.json", *sides):
        out.mkdir(exist_ok=True)
        shutil.copy(run_dir / name, out / name)
    accepting = replace(tiny(), config=tiny().config.changed(accept_changes=True))
    running.claim_run(
        experiment.ground(), RunFolder(out), replace(accepting, quality_weight=5.0), resume=True
    )
    kept = {"run.json", "evaluation_base.json", "evaluation_base_play.json"}
    assert {path.name for path in out.iterdir()} == kept
    facts = json.loads((out / "run.json").read_text())
    assert facts["recipe"]["quality_weight"] == 5.0 and facts["changed"] == {"quality_weight": [0.0, 5.0]}
    longer = replace(accepting, quality_weight=5.0, evaluation_latents=12)
    running.claim_run(experiment.ground(), RunFolder(out), longer, resume=True)
    assert [path.name for path in out.iterdir()] == ["run.json"]


def test_the_trained_weights_are_exported_with_what_was_measured(run_dir, tmp_path):
    assert export_run(run_dir, tmp_path / "given", embedded=("doom",)) == 2
    net = load_doom_world(tmp_path / "given").net
    same = load_doom_world(run_dir / "weights").net.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in net.state_dict().items())
    card = (tmp_path / "given" / "README.md").read_text()
    assert "license: apache-2.0\n" in card and "Combined actions followed: " in card
    assert "| combined | Actions followed, held-out judge |" in card and "Seeds of the evaluation: 0." in card
    assert "worldcompass evaluate --world doom --checkpoint FOLDER" in card


def test_resuming_a_finished_run_repeats_its_numbers(run_dir):
    before = json.loads((run_dir / "results.json").read_text())
    (run_dir / "evaluation_trained.json").unlink()
    tiny().run(run_dir, "cpu", resume=True)
    after = json.loads((run_dir / "results.json").read_text())
    assert after["trained"] == before["trained"]


def test_members_are_trained_averaged_and_evaluated_as_one_run(run_dir, tmp_path, capsys):
    config = tiny().config.changed(steps=1)
    recipe, out = replace(tiny(), config=config, members=2, extend=1.5, unseen=True), tmp_path / "run"
    results = recipe.run(out, "cpu", resume=False, measured_by=run_dir)
    assert results.forward_passes.clip_level == 2 * (2 * 2 * 2 * 2)  # chunk 0 alone, both members
    assert "Next: walk in it, worldcompass play --after" in capsys.readouterr().out
    start = load_doom_world().net.state_dict()
    own = [load_checkpoint(out / "members" / m / "checkpoints" / "step_000001")[0] for m in "01"]
    trained = load_doom_world(out / "weights").net.state_dict()
    for name in (n.removeprefix(AVERAGE) for n in own[0] if n.startswith(AVERAGE)):
        mean = (own[0][AVERAGE + name] + own[1][AVERAGE + name]) / 2
        expected = start[name] + 1.5 * (mean - start[name])
        torch.testing.assert_close(trained[name], expected.half().float())
    code, told = cli.main(["doctor", str(out), "--json"]), json.loads(capsys.readouterr().out)
    harmful = [finding for finding in told["findings"] if finding["name"] != "getting worse"]
    assert code == int(not told["healthy"]) and not harmful, "one step may have made it worse, and no more"
    assert "1 training steps of each of 2 members" in (out / "report.html").read_text()


def test_measures_of_the_base_are_copied_from_a_finished_run(run_dir, tmp_path, monkeypatch):
    other = shutil.copytree(run_dir, tmp_path / "other")
    for name in ("evaluation_engine.json", "evaluation_base.json", "videos_base.safetensors", "results.json"):
        (other / name).unlink()
    (other / "evaluation_base_play.json").unlink()
    monkeypatch.setattr(measuring, "imagine_all", None)
    results = tiny().run(other, "cpu", resume=True, measured_by=run_dir)
    found, before = results.evaluation, read_results(RunFolder(run_dir).results).evaluation
    assert found.base == before.base and found.engine == before.engine


@pytest.fixture
def short(monkeypatch):
    """Two scenarios of 8 latents, and of 4 as the shorter horizon."""
    plans = [p for p in evaluation_plans() if p.id in {f"heldout/my_way_home/{kind}/0" for kind in KINDS}]
    monkeypatch.setattr(evaluation, "evaluation_plans", lambda: plans)
    monkeypatch.setattr(evaluation, "HORIZONS", {125: 1, 253: 2, 381: 3})


def test_runs_are_compared_with_the_base_at_every_horizon(run_dir, short, tmp_path, capsys, monkeypatch):
    """The first frames of a longer rollout are the shorter rollout; what was measured is not measured again."""
    out, runs = tmp_path / "longer", [str(run_dir), str(run_dir / "weights")]
    arguments = ["evaluate", "--checkpoint", *runs, "--frames", "253", "--out", str(out)]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "253 frames, way rollout (chunks of 4 latents, 2 denoising steps), actions followed" in said
    assert "125 frames, way play (chunks of 1 latent, 1 denoising step), actions followed" in said
    results = json.loads((out / "results.json").read_text())
    assert set(results["horizons"]) == {"125", "253"}
    assert results["trained"]["basic"]["judge_accuracy"]["n"] == 2, "two runs of one held-out scenario"
    assert results["horizons"]["253"]["gap_closed"] == results["gap_closed"]
    assert results["horizons"]["125"]["ways"]["play"]["trained"]["basic"]["judge_accuracy"]["n"] == 2
    assert (out / "before_after.mp4").is_file() and len(list((out / "filmstrips").glob("*.png"))) == 2
    alone = evaluation.compare([], tmp_path / "shorter", 125, 0, "cpu")  # the base's alone
    for kind in KINDS:
        longer, shorter = (
            read_results(RunFolder(out).results).horizons[125].base[kind],
            alone.evaluation.base[kind],
        )
        assert longer["sharpness"].mean == pytest.approx(shorter["sharpness"].mean, abs=1e-5)
    (out / "results.json").unlink()
    monkeypatch.setattr(measuring, "imagine_all", None)
    assert (
        cli.main(arguments) == 0 and json.loads((out / "results.json").read_text())["base"] == results["base"]
    )


def test_the_command_offers_the_horizons_that_are_measured():
    assert tuple(evaluation.HORIZONS) == evaluate.FRAMES


def test_weights_that_cannot_be_evaluated_are_refused_before_any_work(run_dir, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run_dir / "run.json", unfinished / "run.json")
    (tmp_path / "other" / "kept").mkdir(parents=True)
    (tmp_path / "evaluated").mkdir()
    (tmp_path / "evaluated" / "evaluation.json").write_text('{"weights": [], "frames": 253, "seed": 0}')
    for checkpoint, out, words in (
        (tmp_path / "nowhere", "new", "does not exist"),
        (unfinished, "new", "an unfinished run"),
        (tmp_path, "new", "holds no trained weights: expected a finished run"),
        (run_dir, "other", "is not an empty folder and holds no evaluation"),
        (run_dir, "evaluated", "holds an evaluation with other weights, frames"),
    ):
        assert cli.main(["evaluate", "--checkpoint", str(checkpoint), "--out", str(tmp_path / out)]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_too_little_disk_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "NEEDED_BYTES", 10**18)
    with pytest.raises(UserError, match="B free, a run needs"):
        tiny().run(tmp_path / "run", "cpu", resume=False)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("interaction_weight=-1", "not negative, got interaction_weight=-1"),
        ("quality_weight=nan", "finite and not negative"),
        ("config.weights.quality=2", "config.weights is not read"),
    ],
)
def test_weights_of_rewards_are_checked_before_anything_runs(setting, words, tmp_path, capsys):
    arguments = ["train", "doom_full", "--set", setting, "--out", str(tmp_path / "run")]
    assert cli.main(arguments) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_rewards_that_all_weigh_nothing_are_refused(tmp_path, capsys):
    names = ("interaction", "quality", "likeness", "steadiness")
    zeros = [word for name in names for word in ("--set", f"{name}_weight=0")]
    assert cli.main(["train", "doom_full", *zeros, "--out", str(tmp_path / "run")]) == 2
    assert "weights of all rewards are zero" in capsys.readouterr().err
