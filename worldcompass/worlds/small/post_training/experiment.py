"""A run on a small world: evaluate the base, post-train, evaluate again, and report.

Every stage writes a file; ``resume`` continues after the last one, or within post-training.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.doctor import diagnose, read_record
from worldcompass.errors import UserError
from worldcompass.evaluate import (
    FOLLOWED,
    HELD_OUT,
    KINDS,
    Judge,
    gap_text,
    per_action,
    per_depth,
    scenarios_hash,
)
from worldcompass.parallel.team import Team
from worldcompass.passes import clip_level_passes, whole_video_passes
from worldcompass.report import write_report
from worldcompass.runs.atomic import write_json
from worldcompass.runs.final import exporting
from worldcompass.runs.folder import RunFolder, claim
from worldcompass.runs.metrics import read_metrics
from worldcompass.runs.record import RunRecord, read_run_record
from worldcompass.runs.results import ForwardPasses, Results, write_results
from worldcompass.runs.settings import by_short_name
from worldcompass.training.averaging import check_members, extend_checkpoint, train_members
from worldcompass.training.config import Config
from worldcompass.training.loop import train_parts
from worldcompass.training.preflight import check_inputs
from worldcompass.training.probe import HeldOut
from worldcompass.training.resume import MAY_CHANGE, differences, refuse_changes
from worldcompass.training.run import Parts
from worldcompass.training.stretch import stretch_of_step
from worldcompass.types import Scenario
from worldcompass.version import __version__
from worldcompass.ways import PLAY, ROLLOUT
from worldcompass.world import WorldSpec
from worldcompass.worlds.small.post_training.evaluation import (
    Evaluator,
    Exam,
    Sides,
    evaluated,
)
from worldcompass.worlds.small.post_training.guided import with_guidance
from worldcompass.worlds.small.weights import WeightFiles

NEEDED_BYTES = 500_000_000  # checkpoints with three copies of the weights and the optimiser, two at a time


@dataclass(frozen=True)
class SmallRecipe(ABC):
    """A recipe that evaluates the base of a small world, post-trains it and evaluates again.

    A world adds a field ``NAME_weight`` for each of its rewards.
    """

    config: Config
    evaluation_latents: int = 32
    """Length of the evaluation: 32 latents are 125 frames, 64 are 253, 96 are 381."""
    evaluation_seeds: tuple[int, ...] = (0,)
    """Noise seeds of the evaluation, for both the base and the trained model."""
    evaluation_played_every: int = 2
    """The way ``play`` is evaluated on every so many scenarios of a split and a kind, to save time."""
    evaluation_guidance: float = 0.0
    """Guidance of the trained model in the evaluation, at twice its cost; the base has none."""
    unseen: bool = True
    """Also evaluate what the base never trained on."""
    likeness_weight: float = 0.0
    """Of likeness to reachable truth, see ``TruthPaired``; above 0 for the critic to take part, as all below."""
    steadiness_weight: float = 0.0
    """Of colours like reachable truth's, see ``TwoSided``."""
    reality_weight: float = 0.0
    """Of networks that learn to tell candidates from the engine, see ``Discriminator``."""
    inverse_dynamics_weight: float = 0.0
    """Of the critic in ``inverse_dynamics``."""
    inverse_dynamics: str = ""
    """File of a critic of the world's actions, made by ``worldcompass critics train``."""
    members: int = 1
    """Number of runs with different seeds whose weights are averaged, see ``worldcompass.training.averaging``."""
    extend: float = 1.0
    """How far to go from the base towards the mean: 0.5 goes half of the way, 1.5 beyond it."""

    @abstractmethod
    def ground(self) -> Ground[Self]:
        """What an experiment needs of the world."""

    def run(self, out: Path, device: str, resume: bool, measured_by: Path | None = None) -> Results:
        """See ``run_experiment``."""
        return run_experiment(self.ground(), self, out, device, resume, measured_by)

    def parts(self, device: str) -> Parts:
        """The inputs of training; for ``worldcompass profile``."""
        return self.ground().parts(self, device)


R = TypeVar("R", bound=SmallRecipe)


@dataclass(frozen=True)
class Ground(Generic[R]):
    """What an experiment needs of a world."""

    weights: WeightFiles
    first_version: str
    """Version of the base weights of runs without a record of it."""
    weighted: tuple[str, ...]
    """Names of the rewards."""
    plain: R
    """The recipe with every setting at its default."""
    parts: Callable[[R, str], Parts]
    """The inputs of training on a device."""
    scenarios: Callable[[R], Sequence[Scenario]]
    """The fixed scenarios of the evaluation, with the engine's continuation."""
    probes: Callable[[int], Sequence[Scenario]]
    """Short scenarios of a seed that neither training nor evaluation uses, for probes during training."""
    exam: Callable[[], Exam]
    longer: str
    """The command of the longer recipe, and how long it takes."""


def run_experiment(
    ground: Ground[R], recipe: R, out: Path, device: str, resume: bool, measured_by: Path | None = None
) -> Results:
    """Run a recipe and write results.json and report.html; the main process evaluates.

    Args:
        ground: the world's part.
        recipe: to run.
        out: folder of the run.
        device: a device of PyTorch, such as ``cuda``.
        resume: continue the run in ``out``.
        measured_by: a finished run with the same evaluation, whose measurements of engine and base are copied.

    Raises:
        UserError: when ``out`` holds another run, or holds a run and ``resume`` is False; when settings do not fit
            the world, its scenarios or critics. Nothing has been computed or written then.
    """
    begun, team = time.monotonic(), Team.current(recipe.config.parallel.ranks_per_group)
    folder = RunFolder(out)
    if team.size > 1 and recipe.config.parallel.shard:
        raise UserError(
            "the embedded world cannot be sharded, as it fits every process: set config.shard=False"
        )
    weights_of(recipe, ground.weighted)
    check_members(recipe.members, recipe.extend)
    if recipe.evaluation_played_every < 1:
        raise UserError(f"evaluation_played_every is {recipe.evaluation_played_every}: set a number above 0")
    team.check_divides(recipe.config.sampling.prompts_per_step)
    parts = ground.parts(recipe, device)
    check_inputs(parts)  # now, and not after minutes of evaluating the base
    with_guidance(parts.world, recipe.evaluation_guidance)
    team.on_main(lambda: claim_run(ground, folder, recipe, resume))
    if measured_by is not None:
        team.on_main(lambda: _take_measurements(folder, RunFolder(measured_by)))
    world, config = parts.world, parts.config
    exam = ground.exam()
    if team.is_main:
        scenarios = ground.scenarios(recipe)
        evaluator = Evaluator(folder, scenarios, exam, recipe.evaluation_played_every)
        engine = evaluator.engine(world.spec)
        base = evaluator.model("base", world, recipe.evaluation_seeds)
    held_out = None
    if config.keeping.probe_every:
        held_out = _held_out(exam.judge, world.spec.actions, ground.probes(config.seed))
    if recipe.members == 1:
        started = team.agree(folder.checkpoints.is_dir())
        policy = train_parts(parts, out, resume=resume and started, held_out=held_out)
        if recipe.extend != 1:
            extend_checkpoint(policy, [policy.checkpoint_weights], recipe.extend)
    else:
        world, policy = train_members(
            lambda own: ground.parts(_with(recipe, config=own), device),
            recipe.config, recipe.members, recipe.extend, out, held_out,
        )  # fmt: skip
    if not team.is_main:
        return Results()
    with policy.checkpoint():
        with exporting(folder) as weights:
            ground.weights.export(world.net, weights / ground.weights.net)
        sampled = with_guidance(world, recipe.evaluation_guidance)
        trained = evaluator.model("trained", sampled, recipe.evaluation_seeds)
    sides = {way: {"engine": engine, "base": base[way], "trained": trained[way]} for way in base}
    results = _results(folder, recipe, world.spec, scenarios, sides, time.monotonic() - begun)
    write_results(folder.results, results)
    evaluator.pictures(world.spec)
    page = write_report(out)
    headline(results, folder, page, ground.longer if recipe.members == 1 else None)
    return results


def weights_of(recipe: SmallRecipe, weighted: Sequence[str]) -> dict[str, float]:
    """The recipe's weights by the names of its critics.

    Raises:
        UserError: when they are invalid, or set in ``config.weights``, which these recipes do not read.
    """
    weights = {name: getattr(recipe, f"{name}_weight") for name in weighted}
    texts = ", ".join(f"{name}_weight={weight:g}" for name, weight in weights.items())
    if recipe.config.rewards.weights:
        raise UserError(
            f"config.weights is not read by recipes of the embedded world: set these settings instead, now {texts}"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()):
        raise UserError(f"weights of rewards must be finite and not negative, got {texts}")
    if not any(weights.values()):
        raise UserError(f"the weights of all rewards are zero ({texts}): set one of them above 0")
    return weights


def _with(recipe: R, config: Config) -> R:
    """The recipe with another configuration."""
    changed: Any = recipe
    return replace(changed, config=config)


def _held_out(judge: Judge, space: ActionSpace, scenarios: Sequence[Scenario]) -> HeldOut:
    """The judge's share of followed actions, on scenarios that neither training nor evaluation uses.

    Reports do not affect training. A rollback by the judge selects by its scores, so it is slightly less
    independent.
    """

    def followed(videos_VF3hw: Tensor, scenarios: Sequence[Scenario]) -> Tensor:
        wanted_VM = torch.stack([space.composites(s.actions) for s in scenarios])
        return (judge.labels(videos_VF3hw.cpu()) == wanted_VM)[:, 1:].double().mean(1)

    return HeldOut(followed, scenarios)


def claim_run(ground: Ground[R], folder: RunFolder, recipe: R, resume: bool) -> None:
    """Create the run folder, or check that it holds the same run."""
    out, version = folder.path, ground.weights.version
    now = RunRecord(
        recipe=_described(recipe),
        version=__version__,
        world=ground.weights.world,
        weights=version,
        command=" ".join(["worldcompass", *sys.argv[1:]]),
        python=platform.python_version(),
        torch=str(torch.__version__),
        threads=torch.get_num_threads(),
        machine=platform.machine(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if claim(out, folder.record, now.to_json(), "a run", NEEDED_BYTES) is not None:
        if not resume:
            raise UserError(f"{out} already holds a run: resume it with --resume or choose another --out")
        found = read_run_record(folder.record)
        if _of_another_world(found, folder, ground.weights):
            raise UserError(
                f"{out} holds a run of another world than {ground.weights.world}: choose another --out, or resume"
                " it by the command that began it"
            )
        if (started := found.weights or ground.first_version) != version:
            raise UserError(
                f"{out} started from weights of version {started}, the package holds version {version}:"
                " choose another --out"
            )
        defaults = _identity(_described(ground.plain))
        changed = differences(_identity(found.recipe), _identity(now.recipe), defaults)
        refuse_changes(out, changed, recipe.config.keeping.accept_changes)
        if changed:
            _forget_evaluations(folder, changed)
            write_json(folder.record, replace(found, recipe=now.recipe, changed=changed).to_json(), indent=1)


def _of_another_world(found: RunRecord, folder: RunFolder, own: WeightFiles) -> bool:
    """Whether a run is of another world; without its name in the record, by the weights of a finished run."""
    if found.world:
        return found.world != own.world
    return (
        folder.weights.is_dir() and any(folder.weights.iterdir()) and not (folder.weights / own.net).is_file()
    )


def _forget_evaluations(folder: RunFolder, changed: Iterable[str]) -> None:
    """Delete stale measurements: those of the trained model, or all if settings of the evaluation changed."""
    everything = any(name.startswith("evaluation_") or name == "unseen" for name in changed)
    trained = [folder.evaluation("trained", way) for way in (ROLLOUT, PLAY)]
    for path in folder.evaluations() if everything else trained:
        path.unlink(missing_ok=True)


def _identity(recipe: Mapping[str, object]) -> dict[str, object]:
    """The settings that must equal those of a run to resume it; those that change no result are excluded."""
    config = recipe["config"]
    assert isinstance(config, Mapping), "run.json holds the configuration"
    settings = by_short_name(config)
    lasting = {k: v for k, v in settings.items() if k not in MAY_CHANGE or k == "steps"}
    return {**recipe, "config": lasting}


def _described(recipe: SmallRecipe) -> dict[str, object]:
    assert is_dataclass(recipe)
    own = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name != "config"}
    return json.loads(json.dumps({**own, "config": recipe.config.described()}))


def _take_measurements(folder: RunFolder, finished: RunFolder) -> None:
    """Copy what was measured of engine and base; ways of walking that the older run did not measure are left."""
    for theirs, ours in (
        (finished.evaluation("engine"), folder.evaluation("engine")),
        (finished.videos("base"), folder.videos("base")),
        *((finished.evaluation("base", way), folder.evaluation("base", way)) for way in (ROLLOUT, PLAY)),
    ):
        if not ours.exists() and theirs.exists():
            shutil.copyfile(theirs, ours)


def _results(
    folder: RunFolder, recipe: SmallRecipe, spec: WorldSpec, scenarios: Sequence[Scenario],
    sides_of: Mapping[str, Sides], seconds: float,
) -> Results:  # fmt: skip
    sampling, group = recipe.config.sampling, recipe.config.sampling.group_size
    chunks, steps = sampling.last_chunk + 1, sampling.denoising_steps or spec.num_steps
    metrics = read_metrics(folder.metrics)
    stretches = [stretch_of_step(sampling, spec, step, metrics) for step in range(1, recipe.config.steps + 1)]
    whole = [whole_video_passes(s.chunk + 1, group, s.num_steps, sampling.explore) for s in stretches]
    sides = sides_of[ROLLOUT]
    return Results(
        evaluation=evaluated(sides_of),
        scenarios_hash=scenarios_hash(scenarios, spec.actions),
        walking=spec.ways,
        seconds=seconds,
        training_seconds=sum(sum(m.seconds.values()) for m in metrics),
        forward_passes=ForwardPasses(
            clip_level=sum(m.forward_passes or 0 for m in metrics),
            whole_video=sampling.prompts_per_step * recipe.members * sum(whole),
            clip_level_per_group=clip_level_passes(
                chunks, group, steps, sampling.explore, sampling.clip_chunks
            ),
            whole_video_per_group=whole_video_passes(chunks, group, steps, sampling.explore),
        ),
        per_depth=per_depth(sides),
        per_action={
            name: per_action(sides[name].select(HELD_OUT), spec.actions) for name in ("base", "trained")
        },
    )


def headline(results: Results, folder: RunFolder, page: Path, further: str | None) -> None:
    """Print the final table and the next commands: the player, and ``further`` unless None."""
    console = Console()
    table = Table(title="Held-out judge, exact actions per latent (95% interval)", box=SIMPLE)
    for column in ("way", "actions", "base", "trained", "change", "engine", "gap closed"):
        table.add_column(column, justify="left" if column in ("way", "actions") else "right")
    for way, found in results.evaluation.by_way().items():
        for kind in KINDS:
            scores = [
                found.score(side, kind, FOLLOWED) for side in ("base", "trained", "difference", "engine")
            ]
            closed = gap_text(found, kind, "\n")
            table.add_row(way, kind, *(score.in_percent("\n") for score in scores), closed)
    console.print(table)
    for way, walking in results.walking.items():
        console.print(f"{way}: {walking.describe()}")
    minutes = (results.seconds or 0) / 60
    console.print(f"Page: {page}   video: {folder.comparison}   minutes: {minutes:.1f}")
    run = folder.path
    console.print(f"Is it learning? {diagnose(read_record(run)).answer} (More: worldcompass doctor {run})")
    then = f"walk in it, worldcompass play --after {run}" + (f", or {further}" if further else "")
    console.print(
        f"Next: {then}. For your own model see the guide your_own_world.md of the source repository."
    )
