"""Policies know the same in engine and world, differ in quality, and their agreement is counted as it should be."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.statistics import Estimate
from worldcompass.worlds.hands.place import Table
from worldcompass.worlds.hands.policies.agreement import (
    BOTH,
    read_results,
    results_of,
    write_results,
)
from worldcompass.worlds.hands.policies.habits import POLICIES
from worldcompass.worlds.hands.policies.page import write_page
from worldcompass.worlds.hands.policies.trials import (
    BASE,
    ENGINE,
    LATENTS,
    PIXELS,
    TASKS,
    TRAINED,
    Block,
    Scenes,
    Trials,
    actor_of,
    in_engine,
    in_world,
)
from worldcompass.worlds.hands.world import load_hands_world

BY_NAME = {policy.name: policy for policy in POLICIES}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("worldcompass.worlds.hands.policies.agreement.RESAMPLES", 100)


@pytest.fixture(scope="module")
def scenes(engine) -> Scenes:
    return Scenes.draw("heldout", 2)


@pytest.fixture(scope="module")
def table(engine):
    made = Table()
    yield made
    made.close()


@pytest.mark.parametrize("task", list(TASKS))
def test_good_policies_succeed_in_the_engine_and_bad_ones_do_not(table, scenes, task):
    def success(name: str) -> list[tuple[bool, bool]]:
        block = Block(ENGINE, task, BY_NAME[name])
        found = [in_engine(table, block, start) for start in scenes.by_task[task]]
        return [(truth is not None, pixels is not None) for truth, pixels in found]

    assert success("script") == success("looking") == [(True, True)] * 2
    assert success("still") == success("confused") == [(False, False)] * 2


def test_there_are_eight_policies_or_more_with_names_of_their_own():
    assert len(BY_NAME) == len(POLICIES) >= 8


def test_a_policy_draws_the_same_in_engine_and_world_and_acts_on_pictures_alone(scenes):
    """Fed with the same pictures, two episodes of a policy give the same commands; one that looks sees a change."""
    start = scenes.by_task["push"][0]
    still = start.image_3hw.movedim(0, -1).numpy()[None]
    elsewhere = np.roll(still, 9, 2)
    for policy in POLICIES:
        episodes = []
        for frames in (still, still, elsewhere):
            _, actor = actor_of(Block(ENGINE, "push", policy), start)
            episodes.append(np.stack([actor(frames) for _ in range(LATENTS)]))
        assert np.array_equal(episodes[0], episodes[1]) and (np.abs(episodes[0]) <= 1).all()
        assert np.array_equal(episodes[0], episodes[2]) is (policy.name != "looking")


def test_a_batch_of_a_world_is_its_single_episodes(scenes, monkeypatch):
    """Everything that is seen counts as done here, so that each episode has an end of its own."""
    monkeypatch.setattr("worldcompass.worlds.hands.policies.trials.LATENTS", 3)
    ends = "worldcompass.worlds.hands.watching.done_in_pixels"
    monkeypatch.setattr(ends, lambda wanted, seen: np.nansum(seen.places_MT2[-1]) % 3 < 1)
    world, block = load_hands_world(), Block(BASE, "pick", BY_NAME["script"])
    starts = scenes.by_task["pick"]
    together = in_world(world, block, starts, 0)
    assert together == tuple(in_world(world, block, [start], 0)[0] for start in starts)


def stored(folder, scenes: Scenes, share: dict[str, list[float]]) -> Trials:
    """Trials whose outcomes are given: by side, in which share of the scenes each policy succeeds."""
    policies, count = POLICIES[:4], 10
    by_task = {task: tuple(starts[:1]) * count for task, starts in scenes.by_task.items()}
    starts = {
        task: tuple(
            replace(start, scene=replace(start.scene, name=f"heldout/{n}")) for n, start in enumerate(own)
        )
        for task, own in by_task.items()
    }
    trials = Trials(folder, Scenes("heldout", starts), {BASE: None, TRAINED: None}, (0,), policies, None)  # type: ignore[arg-type]
    for task in TASKS:
        for index, policy in enumerate(policies):
            outcomes = {
                side: [[5 if n < 10 * values[index] else None for n in range(count)]]
                for side, values in share.items()
            }
            for side in (ENGINE, BASE, TRAINED):
                own = (ENGINE, PIXELS) if side == ENGINE else (side,)
                path = Block(side, task, policy).file(folder)
                path.write_text(
                    json.dumps({"scenes": trials.scenes.names(task), **{k: outcomes[k] for k in own}})
                )
    return trials


def test_a_world_that_ranks_as_the_engine_agrees_and_one_that_turns_it_round_does_not(scenes, tmp_path):
    quality = [1.0, 0.7, 0.4, 0.1]
    shares = {ENGINE: quality, PIXELS: quality, BASE: quality[::-1], TRAINED: [0.9, 0.6, 0.3, 0.0]}
    trials = stored(tmp_path, scenes, shares)
    results = results_of(trials, {BASE: "shipped", TRAINED: "mine"})
    trained = results.agreement(BOTH, TRAINED).measures
    assert trained["spearman"].mean == pytest.approx(1) == trained["kendall"].mean
    assert trained["error"].mean == pytest.approx(0.1) and trained["bias"].mean == pytest.approx(-0.1)
    base = results.agreement("pick", BASE).measures
    assert base["spearman"].mean == pytest.approx(-1) and base["bias"].mean == pytest.approx(0)
    change = results.agreement(BOTH, "difference").measures["spearman"]
    assert change.mean == pytest.approx(2) and change.low > 0
    assert results.verdict.startswith("Success in the post-trained world ranks policies better")
    assert results.rows[1].success[ENGINE].mean == pytest.approx(0.7)
    same = results_of(stored(tmp_path, scenes, {**shares, TRAINED: shares[BASE]}), {})
    assert same.verdict.startswith("It is not shown")
    write_results(tmp_path / "policies.json", results)
    assert read_results(tmp_path / "policies.json") == results
    page = write_page(tmp_path / "policies.html", results).read_text()
    assert "Pick up the cup" in page and "trained − base" in page and page.count("<svg") >= 10


def test_outcomes_of_other_scenes_are_refused(scenes, tmp_path):
    trials = stored(tmp_path, scenes, {side: [0.5] * 4 for side in (ENGINE, PIXELS, BASE, TRAINED)})
    path = Block(BASE, "push", POLICIES[0]).file(tmp_path)
    path.write_text(path.read_text().replace("heldout/3", "heldout/33"))
    with pytest.raises(UserError, match="holds outcomes in other scenes: delete it"):
        results_of(trials, {})


def test_the_command_measures_and_resumes(engine, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("worldcompass.worlds.hands.policies.trials.POLICIES", (BY_NAME["still"],))
    asked = ["hands", "policies", "--scenes", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("worldcompass.worlds.hands.policies.trials.LATENTS", 2)
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert "No post-trained world was given" in said and "still" in said
    files = sorted((tmp_path / "out" / "outcomes").iterdir())
    made = [file.stat().st_mtime_ns for file in files]
    assert files and cli.main(asked) == 0
    assert [file.stat().st_mtime_ns for file in files] == made, "what is done is not done again"
    assert isinstance(read_results(tmp_path / "out" / "policies.json").rows[0].success[ENGINE], Estimate)
    capsys.readouterr()
    for wrong, said in (
        ([*asked, "--seeds", "2"], "holds trials of other scenes, seeds or weights: choose another --out"),
        ([*asked[:-1], str(tmp_path / "new"), "--split", "mars"], "no split 'mars' of Hands scenes"),
        ([*asked[:-1], str(tmp_path / "new"), "--after", str(tmp_path)], "holds no trained weights"),
    ):
        assert cli.main(wrong) == 2
        assert said in capsys.readouterr().err
