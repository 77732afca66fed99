"""The evaluation tells better from worse, and its intervals hold what they promise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from camera_paths import commanded
from controls_of_a_gripper import GRIPPER

from worldcompass.controls import Controls, button
from worldcompass.evaluate import (
    MEASURES,
    Measured,
    evaluation_of,
    gap_share,
    gap_text,
    imagine_all,
    measure,
    per_action,
    per_depth,
    pool,
    summarise,
    with_ways,
)
from worldcompass.report.actions import heat_maps
from worldcompass.rollout import imagine_video
from worldcompass.runs.results import ActionCounts, Count, Evaluation
from worldcompass.statistics import Crossing, Estimate, resamples
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.types import Scenario, Truth
from worldcompass.ways import Walking
from worldcompass.worlds.doom.world import SPEC, intrinsics


def measured(accuracy: np.ndarray, kinds: tuple[str, ...] | None = None) -> Measured:
    count = len(accuracy)
    values = {name: np.repeat(accuracy[:, None], 2, 1) for name in MEASURES}
    labels = np.zeros((count, 8), int)
    return Measured(
        tuple(f"s{i}" for i in range(count)), kinds or ("combined",) * count, values, labels, labels
    )


class Reader:
    """Reads from the top left pixel: its red value is the label; brightness of the frame is its realism."""

    def labels(self, frames_PF3hw):
        ends = frames_PF3hw[:, 4::4, 0, 0, 0].long()
        return torch.cat([torch.zeros_like(ends[:, :1]), ends], 1)

    def realism(self, frames_F3hw):
        return frames_F3hw.float().mean(dim=(1, 2, 3)) / 255


def scenario_with_truth(labels: list[int]) -> Scenario:
    actions = commanded(torch.tensor(labels), SPEC.actions.motion, intrinsics())
    frames = torch.randint(0, 255, (4 * len(labels) - 3, 3, 48, 64), dtype=torch.uint8)
    frames[:, 0, 0, 0] = torch.tensor(labels).repeat_interleave(4)[3:]
    truth = Truth(frames, actions)
    return Scenario("a", actions, frames[0], kind="combined", truth=truth)


def test_engine_videos_get_top_scores_and_blurred_wrong_ones_less():
    scenario = scenario_with_truth([0, 9, 9, 1, 1, 27, 27, 3])
    assert scenario.truth is not None
    true = scenario.truth.frames_F3hw[None]
    best = measure(true, [scenario], SPEC, Reader(), Reader())
    assert best.values_VD["judge_accuracy"].tolist() == [[1, 1]]
    assert np.abs(best.values_VD["sharpness"]).max() == 0
    bad = true.clone()
    bad[0, :, 0, 0, 0] = 80
    bad[0, 13:] = bad[0, 13:].float().mean(dim=(-1, -2), keepdim=True).to(torch.uint8)
    worse = measure(bad, [scenario], SPEC, Reader(), Reader())
    assert worse.values_VD["judge_accuracy"].max() == 0
    assert worse.values_VD["sharpness"][0, 1] < -1


def test_the_first_chunk_scores_three_latents_and_each_later_one_four():
    scenario = scenario_with_truth([0, 9, 9, 1, 1, 27, 27, 3])
    assert scenario.truth is not None
    video = scenario.truth.frames_F3hw.clone()
    video[4, 0, 0, 0] = 80  # one of three latents of the first chunk is wrong
    video[28, 0, 0, 0] = 80  # one of four of the second
    values = measure(video[None], [scenario], SPEC, Reader(), Reader()).values_VD["judge_accuracy"]
    np.testing.assert_allclose(values, [[2 / 3, 3 / 4]])


def test_colour_is_compared_with_the_engine_at_the_same_moment():
    """A room that turns blue slowly is told from one that the engine shows blue."""
    scenario = scenario_with_truth([0, 9, 9, 9])
    assert scenario.truth is not None
    truth = scenario.truth.frames_F3hw
    bluer = truth.float()
    bluer[:, 2] = (bluer[:, 2] / 2 + 51).round()
    values = measure(torch.stack([truth, bluer.byte()]), [scenario] * 2, SPEC, Reader(), Reader()).values_VD
    expected = (bluer - truth.float())[1:, 2].mean((1, 2)).abs().mean() / 255 / 3
    np.testing.assert_allclose(values["colour"][:, 0], [0, -expected], atol=1e-6)


def test_a_scenario_without_truth_is_refused():
    scenario = scenario_with_truth([0, 9, 9, 9])
    bare = Scenario("a", scenario.actions, scenario.image_3hw, kind="combined")
    with pytest.raises(ValueError, match="has no engine truth"):
        measure(torch.zeros(1, 13, 3, 48, 64, dtype=torch.uint8), [bare], SPEC, Reader(), Reader())


def test_imagined_videos_are_of_the_asked_way_of_walking():
    world = ToyWorld()
    world.spec = replace(world.spec, play=Walking(1, 2))
    scenarios = toy_scenarios(3)
    for way, sizes in (("rollout", (4, 6)), ("play", (1, 2))):
        expected = imagine_video(world, scenarios, ("evaluation", 5), *sizes)
        assert imagine_all(world, scenarios, 5, batch=2, way=way).equal(expected)


def counted(name, kinds, right):
    """Measures of videos of 3 moving latents, of which so many are read as commanded."""
    asked = np.full((len(kinds), 4), 9)
    read = np.array([[9] + [9] * count + [1] * (3 - count) for count in right])
    scores = np.array(right)[:, None] / 3
    names = tuple(f"{name}/{i}" for i in range(len(kinds)))
    return Measured(names, kinds, dict.fromkeys(MEASURES, scores), asked, read)


def test_counts_are_the_latents_behind_the_shares():
    """A base that several runs share is measured once, so its latents count once."""
    kinds = ("combined", "combined", "basic")
    engine, base = counted("heldout", kinds, [3, 3, 3]), counted("heldout", kinds, [0, 1, 2])
    found = evaluation_of(engine, base, pool([counted("heldout", kinds, [2, 3, 3])] * 2))
    assert str(found.count("base", "combined")) == "1 of 6" and found.count("engine", "basic") == Count(3, 3)
    assert found.count("trained", "combined") == Count(10, 12) and found.count("trained", "none") is None
    share = found.score("trained", "combined", "judge_accuracy")
    assert share.n == 4 and share.mean == pytest.approx(10 / 12)
    assert found.score("base", "combined", "judge_accuracy").n == 4


def test_a_way_of_walking_carries_its_own_numbers_beside_the_headline():
    kinds = ("combined", "basic")
    engine, base = counted("heldout", kinds, [3, 3]), counted("heldout", kinds, [0, 1])
    rollout = evaluation_of(engine, base, None)
    play = evaluation_of(engine.only({"heldout/1"}), base.only({"heldout/1"}), None)
    found = with_ways({"rollout": rollout, "play": play})
    assert found.base == rollout.base and list(found.by_way()) == ["rollout", "play"]
    assert not found.by_way()["play"].has("combined")
    assert found.by_way()["play"].count("base", "basic") == Count(1, 3)


def test_the_paired_interval_is_narrow_where_the_pairs_agree():
    """Base scores differ a lot between scenarios, the gain hardly: only pairing shows it."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 0.6, 40)
    trained = base + 0.1 + rng.normal(0, 0.01, 40)
    blocks = summarise(measured(np.full(40, 0.9)), measured(base), measured(trained))
    change = blocks.score("difference", "combined", "judge_accuracy")
    assert 0.09 < change.low < 0.1 < change.high < 0.11
    of_base = blocks.score("base", "combined", "judge_accuracy")
    assert of_base.high - of_base.low > 0.08
    gap = gap_share(blocks, "combined")
    assert gap.mean == pytest.approx((trained.mean() - base.mean()) / (0.9 - base.mean()))
    assert gap.low < gap.mean < gap.high


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        values = rng.normal(0.3, 0.1, 30)
        score = summarise(measured(values), measured(values), None).score(
            "base", "combined", "judge_accuracy"
        )
        hits += score.low < 0.3 < score.high
    assert hits >= 51


def test_over_seeds_that_differ_the_interval_is_wider_than_of_each_seed():
    """Three seeds agree on every scenario but for a step of their own: with them alone, only one is known."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.4, 24)
    seeds = [measured(base + gain + rng.normal(0, 0.01, 24)) for gain in (0.0, 0.1, 0.2)]
    sides = measured(np.full(24, 0.9)), measured(base)
    alone = [summarise(*sides, one).score("difference", "combined", "judge_accuracy") for one in seeds]
    together = summarise(*(pool([side] * 3) for side in sides), pool(seeds))
    assert all(one.high - one.low < 0.02 for one in alone)
    change = together.score("difference", "combined", "judge_accuracy")
    assert change.mean == pytest.approx(0.1, abs=0.01) and not change.rises
    student = 4.30  # of the three seeds' two degrees of freedom
    assert change.high - change.low == pytest.approx(2 * student * 0.1 / 3**0.5, rel=0.1)
    assert not gap_share(together, "combined").rises


def test_a_share_of_latents_stays_between_nothing_and_all():
    seeds = pool([measured(np.array([1.0, 1.0, 1.0, 0.9])), measured(np.array([0.8, 0.8, 0.8, 0.7]))])
    engine, base = (pool([measured(np.full(4, value))] * 2) for value in (1.0, 0.0))
    found = summarise(engine, base, seeds)
    score = found.score("trained", "combined", "judge_accuracy")
    assert (score.low, score.high) == (0, 1)
    assert found.score("trained", "combined", "quality").high > 1, "a logit has no such ends"


def test_seeds_of_one_scenario_are_resampled_together():
    parts = pool([measured(np.arange(3.0)), measured(np.arange(3.0) + 10)])
    rows = resamples(parts.scenarios)
    assert rows.shape[1] == 6
    names = np.array(parts.scenarios)[rows].reshape(len(rows), 3, 2)
    assert (names[..., 0] == names[..., 1]).all()
    with pytest.raises(ValueError, match="same number of videos"):
        resamples(("a", "a", "b"))


def by_depth(first, second, names=None):
    """Combined measures of two chunks: a value of each video in the first, and one in the second."""
    one = measured(np.array(first))
    values = {name: np.stack([first, second], 1) for name in MEASURES}
    ids = names or tuple(f"heldout/{i}" for i in range(len(first)))
    return replace(one, values_VD=values, scenarios=ids)


def test_a_gain_that_grows_with_depth_is_found_in_the_later_chunks_alone():
    """Intervals are paired, so that the spread of the starts does not hide the gain."""
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 1, 40)
    engine, base = by_depth(first + 1, first + 1), by_depth(first, first - 0.5)
    trained = by_depth(first + rng.normal(0, 0.1, 40), first - 0.3 + rng.normal(0, 0.1, 40))
    found = per_depth({"engine": engine, "base": base, "trained": trained})
    curve = found["base"]["combined"]["quality"]
    assert curve.mean == pytest.approx((first.mean(), first.mean() - 0.5), abs=1e-4)
    assert all(low < mean < high for low, mean, high in zip(curve.low, curve.mean, curve.high, strict=True))
    change = found["difference"]["combined"]["quality"]
    assert change.low[0] < 0 < change.high[0] and 0.1 < change.low[1] < 0.2 < change.high[1] < 0.3
    assert "difference" not in per_depth({"engine": engine, "base": base})


def test_curves_by_depth_are_of_the_same_starts_as_the_scores():
    """Those of unseen places, and of a base that two runs share, count as they do in the scores."""
    names = ("heldout/0", "heldout/1", "unseen/0")
    engine, base = (by_depth([a, 0.5, 9.0], [a, 0.5, 9.0], names) for a in (0.9, 0.1))
    trained = pool([by_depth([a, 0.5, 9.0], [0.5, 0.5, 9.0], names) for a in (0.2, 0.4)])
    found = per_depth({"engine": engine, "base": base, "trained": trained})
    scores = evaluation_of(engine, base, trained)
    for side in ("engine", "base", "trained", "difference"):
        curve, score = found[side]["combined"]["quality"], scores.score(side, "combined", "quality")
        assert sum(curve.mean) / 2 == pytest.approx(score.mean), side


def test_curves_over_seeds_that_differ_are_as_wide_as_their_scores():
    names = tuple(f"heldout/{i}" for i in range(8))
    engine, base = (by_depth([value] * 8, [value] * 8, names) for value in (0.9, 0.1))
    trained = pool([by_depth([value] * 8, [value] * 8, names) for value in (0.2, 0.4, 0.7)])
    curve = per_depth({"engine": engine, "base": base, "trained": trained})["difference"]["combined"]["drift"]
    score = evaluation_of(engine, base, trained).score("difference", "combined", "drift")
    assert score.high - score.low > 1
    assert (curve.low[0], curve.high[0]) == pytest.approx((score.low, score.high), abs=1e-4)


def test_measured_survives_json():
    before = measured(np.array([0.25, 0.5]))
    after = Measured.from_json(before.to_json())
    assert after.scenarios == before.scenarios
    np.testing.assert_array_equal(after.values_VD["drift"], before.values_VD["drift"])
    np.testing.assert_array_equal(after.read_VM, before.read_VM)
    old = {k: v for k, v in before.to_json().items() if k not in ("asked", "read")}
    assert not per_action(Measured.from_json(old), SPEC.actions).asked


@pytest.mark.parametrize(
    "change",
    [
        {"values": 3}, {"values": {"drift": 3}}, {"values": {"drift": [1, 2]}},
        {"values": {"drift": [[1], [1, 2]]}}, {"asked": 3},
        {"read": [[-(10**20)], [1]]}, {"scenarios": [1, 2]}, {"kinds": [None, None]},
        {"scenarios": None},
    ],
)  # fmt: skip
def test_malformed_measures_are_a_value_error(change):
    with pytest.raises(ValueError):
        Measured.from_json(measured(np.array([0.25, 0.5])).to_json() | change)


def test_actions_are_counted_per_chunk_without_the_start_image():
    scenario = scenario_with_truth([0, 9, 9, 1, 1, 27, 27, 3])
    assert scenario.truth is not None
    video = scenario.truth.frames_F3hw.clone()
    video[4, 0, 0, 0] = 80  # latent 1, commanded 9
    counts = per_action(measure(video[None], [scenario], SPEC, Reader(), Reader()), SPEC.actions)
    assert [sum(chunk) for chunk in counts.asked] == [3, 4]
    assert [sum(chunk) for chunk in counts.followed] == [2, 4]
    assert (counts.asked[0][9], counts.followed[0][9]) == (2, 1)
    assert (counts.asked[1][27], counts.followed[1][27]) == (2, 2)


def test_videos_are_selected_by_the_beginning_of_their_scenario():
    chosen = pool([measured(np.array([0.1, 0.2])), measured(np.array([0.3]))]).select("s0")
    assert chosen.scenarios == ("s0", "s0")
    assert chosen.values_VD["drift"][:, 0].tolist() == [0.1, 0.3] and chosen.asked_VM.shape == (2, 8)


def test_the_closed_share_is_unknown_without_a_gap_and_still_json():
    same, better = np.array([0.5, 1.0]), np.array([1.0, 1.0])
    crossing = Crossing.of(["a", "b"])
    entry = crossing.share_closed(same, same, better)
    stored = json.loads(json.dumps(entry.to_json(), allow_nan=False))
    assert stored == {"mean": None, "ci95": [None, None], "n": 2}
    assert not entry.known and not Estimate.from_json(stored).known
    engine = np.array([1.0, 1.0])  # no gap in the second scenario, so none in a quarter of the resamples
    assert crossing.share_closed(engine, same, np.array([0.75, 1.0])) == Estimate(0.5, 0.5, 0.5, 2)


@pytest.mark.parametrize(
    ("engine", "shown"),
    [
        (0.9, "50.0% ["),
        (0.5, "gap not resolved"),  # there is none
        (0.505, "gap not resolved"),  # another sample of scenarios might have none
        (0.1, "gap not resolved"),
    ],
)
def test_a_share_of_a_gap_is_shown_where_the_gap_is_resolved(engine, shown):
    noise = np.random.default_rng(0).normal(0, 0.05, (2, 40))
    base, truth = 0.5 + noise[0], engine + noise[1]
    found = summarise(measured(truth), measured(base), measured((base + truth) / 2))
    assert gap_text(found, "combined").startswith(shown) and gap_text(found, "basic") == "–"
    assert gap_share(found, "combined").known == shown.startswith("50")
    assert gap_share(found, "combined").n == 40 and not gap_share(Evaluation(), "combined").known


def test_actions_of_controls_are_counted_in_the_table_of_their_words():
    asked = GRIPPER.parse("reach+up-4, left-3").numpy()[None]
    read = GRIPPER.parse("reach+up-3, pull-1, left-3").numpy()[None]
    counts = per_action(Measured(("a",), ("combined",), {}, asked, read), GRIPPER)
    assert [sum(chunk) for chunk in counts.asked] == [3, 4] and [sum(c) for c in counts.followed] == [3, 3]
    place = counts.rows.index("reach") * len(counts.columns) + counts.columns.index("up")
    assert (counts.asked[0][place], counts.asked[1][place], counts.followed[1][place]) == (3, 1, 0)
    page = heat_maps({"Base": counts})
    assert '<th scope="row">reach + left</th>' in page and "<span>up + close</span>" in page
    assert page.count("<td ") == 81
    many = Controls(tuple(button(f"b{i}") for i in range(12)))
    assert per_action(Measured(("a",), ("basic",), {}, asked, read), many) == ActionCounts([], [])
