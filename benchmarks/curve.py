"""How much obedience and how much loss of looks, as weights go from the base towards the trained ones?

    python benchmarks/curve.py RUN RUN RUN --name "the demo" --ways 0.3 0.5 1 --store docs/results/curve.json
    python benchmarks/curve.py RUN RUN RUN --name "the demo" --ways 0.5 1 --average --store docs/results/curve.json
    python benchmarks/curve.py --store docs/results/curve.json --table              # print the stored curve
    python benchmarks/curve.py --store docs/results/curve.json --write docs/results.md

The runs are seeds of one recipe. A way of 0.5 goes half of the way that training went, whatever the run's own
``extend`` is. Every model imagines the 72 frozen scenarios with the base's noise. With ``--average`` the weights
of all runs become one model. Networks and resamples are those of the judge's twin, so that the judge stays unused
for choices. What was imagined is kept in ``--out``, so a stopped command resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.evaluate import Measured, imagine_all, measure, read_measured, scenarios_hash
from worldcompass.judging.curve import (
    Model,
    Point,
    Ruler,
    add_points,
    point_of,
    read_curve,
    ruler_of,
    table_of,
)
from worldcompass.judging.filming import Reel, through_autoencoder
from worldcompass.judging.sources import windows
from worldcompass.judging.spaces import spaces
from worldcompass.judging.twin import twin_seed
from worldcompass.media.progress import progress
from worldcompass.report.tables import without_folder
from worldcompass.runs.atomic import write_json, write_text
from worldcompass.runs.folder import RunFolder, owner_of, weights_folder
from worldcompass.runs.metrics import read_object
from worldcompass.runs.record import read_run_record
from worldcompass.training.averaging import extended_mean
from worldcompass.types import Scenario
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.critics.weights import load_critics, load_judge
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all
from worldcompass.worlds.doom.world import SPEC, WEIGHTS, load_doom_world

LATENTS = 32  # 125 frames
NOISE = 0  # seed of the evaluation's noise
NETWORKS = 2  # random networks of a space
PAGE = re.compile(r"(<!-- curve -->\n)(.*?)(<!-- /curve -->)", re.DOTALL)
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Run:
    """The weights of a run's training at full length, as a difference from the base."""

    seed: int
    command: str
    weights: Weights


def read_run(path: Path, base: Weights) -> Run:
    """A finished run, or a folder of weights, which count as all of the way.

    Raises:
        UserError: when there are no weights.
    """
    folder = weights_folder(path, WEIGHTS.net)
    record = read_run_record(RunFolder(owner_of(folder)).record)
    own = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS.net).items()}
    full = extended_mean(base, [own], 1 / float(record.recipe.get("extend", 1.0)))
    seed = int(record.recipe.get("config", {}).get("seed", 0))
    return Run(seed, without_folder(record.command or "weights alone"), full)


class Bench:
    """The scenarios, and everything that was measured of models on them, stored in a folder."""

    def __init__(self, out: Path) -> None:
        self.reel = Reel(out)
        out.mkdir(parents=True, exist_ok=True)

    @cached_property
    def scenarios(self) -> list[Scenario]:
        """The frozen scenarios of the evaluation."""
        plans = evaluation_plans()
        with progress("replaying the scenarios in the engine", len(plans)) as advance:
            found = replay_all(plans, LATENTS, advance)
        record, digest = self.reel.folder / "scenarios.json", scenarios_hash(found, SPEC.actions)
        if not record.exists():
            write_json(record, {"sha256": digest})
        elif read_object(record, "the scenarios").get("sha256") != digest:
            raise UserError(f"{self.reel.folder} holds videos of other scenarios: choose another --out")
        return found

    @cached_property
    def readers(self) -> tuple[Any, LabelReader]:
        """The held-out judge, and the reader of the critic."""
        return load_judge(), LabelReader(load_critics().motion)

    @cached_property
    def ruler(self) -> Ruler:
        """Measures looks."""
        engine = torch.stack([s.truth.frames_F3hw for s in self.scenarios if s.truth is not None])
        base = load_doom_world()
        reachable = self.reel.take("reachable", lambda: self._film("reachable", through_autoencoder, base))
        seed = twin_seed(0)
        ids = [s.id for s in self.scenarios]
        return ruler_of(engine, reachable, ids, windows(engine.shape[1]), pictures(seed), seed)

    def engine(self) -> Measured:
        """Measures of the engine's own videos."""

        def videos() -> Tensor:
            return torch.stack([s.truth.frames_F3hw for s in self.scenarios if s.truth is not None])

        return self._measured("engine", videos)

    def model(self, weights: Weights) -> Model:
        """What is known of a model; its videos are imagined once."""
        name = digest_of(weights)

        def film() -> Tensor:
            world = load_doom_world()
            world.net.load_state_dict(dict(weights))
            return self._film(name, lambda w, s, on_video: imagine_all(w, s, NOISE, on_video=on_video), world)

        measured = self._measured(name, lambda: self.reel.take(name, film))
        path = self.reel.folder / f"{name}_looks.json"
        if not path.exists():
            logs = self.ruler.logarithms(self.ruler.features(self.reel.take(name, film)))
            write_json(path, {stretch: values.tolist() for stretch, values in logs.items()})
        stored = read_object(path, "the looks of a model")
        return Model(measured, {stretch: np.array(values) for stretch, values in stored.items()})

    def _measured(self, name: str, videos: Callable[[], Tensor]) -> Measured:
        path = self.reel.folder / f"{name}.json"
        if not path.exists():
            write_json(path, measure(videos(), self.scenarios, SPEC, *self.readers).to_json())
        return read_measured(path)

    def _film(self, name: str, make: Callable[..., Tensor], world: Any) -> Tensor:
        with progress(f"filming {name}", len(self.scenarios)) as advance:
            return make(world, self.scenarios, on_video=advance)


def pictures(seed: int) -> list[Any]:
    """The spaces of pictures."""
    return [space for space in spaces(seed, NETWORKS) if space.family == "pictures"]


def digest_of(weights: Weights) -> str:
    """A name for weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def points(bench: Bench, runs: Sequence[Run], base: Weights, args: argparse.Namespace) -> list[Point]:
    """Every way of the seeds, and of their average if asked for."""
    seeds, command = [run.seed for run in runs], runs[0].command
    of_base = bench.model(base)
    found = []
    for way in args.ways:
        single = [[run.weights] for run in runs]
        for averaged, groups in ((False, single), (True, [[run.weights for run in runs]])):
            if averaged is not args.average:
                continue
            models = [bench.model(extended_mean(base, group, way)) for group in groups]
            point = point_of(args.name, way, seeds, averaged, command, bench.engine(), of_base, models)
            print(table_of([point]).splitlines()[-1], flush=True)
            found.append(point)
    return found


def written(text: str, table: str) -> str:
    """The page with a new table between its markers.

    Raises:
        UserError: when the page has no markers.
    """
    if not PAGE.search(text):
        raise UserError("the page has no place for the curve: expected <!-- curve --> and <!-- /curve -->")
    return PAGE.sub(lambda place: f"{place[1]}\n{table}\n\n{place[3]}", text)


def main() -> None:
    """Measure, store, print or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="seeds of one recipe")
    parser.add_argument("--name", default="trained", help="of the recipe in the table")
    parser.add_argument("--ways", type=float, nargs="+", default=[0.3, 0.5, 1.0], metavar="SHARE")
    parser.add_argument("--average", action="store_true", help="the mean of the runs' weights, not each run")
    parser.add_argument("--out", type=Path, default=Path("runs/curve"), help="where videos are kept")
    parser.add_argument("--store", type=Path, help="a curve to add the points to")
    parser.add_argument("--table", action="store_true", help="print the stored curve")
    parser.add_argument("--write", type=Path, nargs="+", default=[], metavar="PAGE")
    args = parser.parse_args()
    if args.runs:
        world = load_doom_world()
        base = {name: tensor.detach().clone() for name, tensor in world.net.state_dict().items()}
        found = points(Bench(args.out), [read_run(path, base) for path in args.runs], base, args)
        if args.store:
            add_points(args.store, found)
    elif not args.store:
        parser.error("expected RUN, or --store with --table or --write PAGE")
    if args.table:
        print(table_of(read_curve(args.store)))
    for page in args.write:
        write_text(page, written(page.read_text(encoding="utf-8"), table_of(read_curve(args.store))))
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
