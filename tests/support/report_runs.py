"""Run folders as a finished run leaves them, for the pages."""

import json
from pathlib import Path

import numpy as np

from worldcompass.geometry import NUM_ACTIONS
from worldcompass.media import video
from worldcompass.runs.metrics import Judged, RewardMetrics, StepMetrics


def make_results(difference: float = 0.172) -> dict:
    def side(shift: float) -> dict:
        values = {m: entry(-0.2 + shift) for m in MEASURES}
        values["judge_accuracy"] = entry(0.241 + shift)
        values["critic_accuracy"] = entry(0.26 + shift)
        return {"combined": values, "basic": {m: entry(v["mean"] + 0.1) for m, v in values.items()}}

    changes = {m: entry(difference if m.endswith("accuracy") else 0.004, 0.01) for m in MEASURES}
    return {
        "schema": 1,
        "scenarios_hash": "5f3c" * 16,
        "seconds": 561.2,
        "base": side(0.0),
        "trained": side(difference),
        "engine": side(0.639),
        "difference": {"combined": changes, "basic": changes},
        "gap_closed": {"combined": entry(0.27, 0.09), "basic": entry(0.1, 0.05)},
        "forward_passes": {"clip_level": 1840, "whole_video": 7920},
        "per_action": {"base": make_counts(3), "trained": make_counts(6)},
        "per_depth": make_depths(difference),
    }


def both_ways(difference: float = 0.172) -> dict:
    """Results that also measured how people walk, with the latents behind the shares."""
    results, play = make_results(difference), make_results(difference / 2)
    sides = ("base", "trained", "engine", "difference", "gap_closed")
    results["ways"] = {"play": {name: play[name] for name in sides}}
    results["ways"]["play"]["counts"] = {"base": {"combined": [61, 72]}, "trained": {"combined": [65, 72]}}
    results["counts"] = {"base": {"combined": [591, 744], "basic": [679, 744]}}
    sizes = {"rollout": (4, 8), "play": (1, 4)}
    results["walking"] = {n: {"chunk_length": k, "num_steps": s} for n, (k, s) in sizes.items()}
    return results | {"schema": 2}


def make_run(folder: Path, difference: float = 0.172) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(make_results(difference)))
    rng = np.random.default_rng(0)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 61):
            noise = rng.normal(size=3)
            metrics = StepMetrics(
                step=step,
                rewards={
                    "interaction": RewardMetrics(mean=0.2 + 0.03 * noise[2]),
                    "quality": RewardMetrics(mean=None if step == 9 else 0.5 + 0.01 * noise[0], valid=1.0),
                },
                loss=1.0 - 0.003 * step + 0.02 * noise[0],
                grad_norm=0.4 + 0.05 * noise[1],
                seconds={"update": 8.0 + 0.2 * noise[2]},
                judge=Judged(0.5 + 0.01 * noise[0], (0.5, 0.5 + 0.02 * noise[0])) if step % 20 == 1 else None,
            )
            file.write(json.dumps(metrics.to_json()) + "\n")
    (folder / "config.json").write_text(json.dumps({"seed": 0, "note": "<script>alert(1)</script>"}))
    (folder / "run.json").write_text(json.dumps({"command": "worldcompass demo --seed 0"}))
    frames = np.tile(np.arange(48, dtype=np.uint8)[:, None] * 5, (20, 3, 1, 64)).reshape(20, 3, 48, 64)
    columns = video.side_by_side([frames, frames[::-1], frames], ["base", "trained", "engine"])
    video.write_mp4(folder / "before_after.mp4", columns, 15)
    strip = video.filmstrips([frames, frames], ["base", "trained"], every=2)
    video.save_png(folder / "filmstrips" / "combined_01.png", strip)
    return folder


MEASURES = ("judge_accuracy", "critic_accuracy", "quality", "sharpness", "flicker", "drift", "colour")


def entry(mean: float, half: float = 0.03, n: int = 96) -> dict:
    return {"mean": mean, "ci95": [mean - half, mean + half], "n": n}


def make_depths(difference: float) -> dict:
    """Three chunks: the base falls, the trained side gains from the second on, the engine stays as it is."""
    means = {
        "engine": [0.9, 0.9, 0.9],
        "base": [0.5, 0.3, 0.1],
        "trained": [0.5, 0.3 + difference, 0.1 + difference],
        "difference": [0.0, difference, difference],
    }
    curves = {side: make_curve(values) for side, values in means.items()}
    return {side: {"combined": {"judge_accuracy": curve, "quality": curve}} for side, curve in curves.items()}


def make_curve(means: list[float], half: float = 0.02) -> dict:
    return {"mean": means, "low": [m - half for m in means], "high": [m + half for m in means]}


def make_counts(followed: int) -> dict:
    """Two chunks in which forward alone was asked 8 times each."""
    asked, right = ([[count if action == 9 else 0 for action in range(NUM_ACTIONS)] for count in counts]
                    for counts in ((8, 8), (followed, followed - 2)))  # fmt: skip
    return {"asked": asked, "followed": right}
