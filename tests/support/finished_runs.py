"""Finished runs of an embedded world with drawn scores, as far as tables and grids read them."""

import json

import numpy as np

from worldcompass.evaluate import MEASURES, Measured, evaluation_of
from worldcompass.runs.results import Results, write_results
from worldcompass.training.config import Config
from worldcompass.ways import Walking

IDS = [
    f"{place}/{kind}/{i}"
    for place in ("heldout", "unseen")
    for kind in ("combined", "basic")
    for i in range(6)
]


def measured(level, seed):
    """Scores of every video around a level, over two chunks."""
    rng = np.random.default_rng(seed)
    values = {name: level + 0.05 * rng.standard_normal((len(IDS), 2)) for name in MEASURES}
    labels = np.zeros((len(IDS), 8), int)
    return Measured(tuple(IDS), tuple(name.split("/")[1] for name in IDS), values, labels, labels)


def make_run(folder, seed=0, recipe="demo", hashed="5f3c", played=False, trained=0.7):
    """A finished run of the embedded world, as far as tables read it; ``played`` on every second scenario."""
    folder.mkdir(parents=True, exist_ok=True)
    walking = {"rollout": Walking(4, 8), "play": Walking(1, 4)} if played else {}
    for side, level in (("base", 0.4), ("trained", 0.45)) if played else ():
        values = measured(level, 20 + seed).only(IDS[::2])
        (folder / f"evaluation_{side}_play.json").write_text(json.dumps(values.to_json()))
    sides = {"engine": measured(0.9, 7), "base": measured(0.5, 8), "trained": measured(trained, 9 + seed)}
    for side, values in sides.items():
        (folder / f"evaluation_{side}.json").write_text(json.dumps(values.to_json()))
    found = evaluation_of(sides["engine"], sides["base"], sides["trained"])
    results = Results(found, hashed, walking, seconds=60.0)
    write_results(folder / "results.json", results)
    config = Config.from_flat(recipe=recipe, seed=seed)
    (folder / "config.json").write_text(json.dumps(config.described()))
    made = {
        "command": f"worldcompass {recipe} --seed {seed} --out /tmp/mine",
        "version": "0.1.0",
        "weights": "4",
    }
    (folder / "run.json").write_text(json.dumps(made))
    return folder
