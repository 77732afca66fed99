"""A run on the embedded world: evaluate the base, post-train, evaluate again, and report.

Every stage writes a file; ``resume`` continues after the last one, or within post-training.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from worldcompass.cost.plan import Needs
from worldcompass.critic import Critic
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
)
from worldcompass.media.progress import progress
from worldcompass.parallel.team import Team
from worldcompass.report import write_report
from worldcompass.rewards.cycle import CycleClosure
from worldcompass.rewards.discriminator import Discriminator
from worldcompass.rewards.quality import QualityWeights
from worldcompass.rewards.truth_paired import TruthPaired, TwoSided
from worldcompass.rollout import clip_level_passes, whole_video_passes
from worldcompass.runs.atomic import write_json
from worldcompass.runs.final import exporting
from worldcompass.runs.folder import RunFolder, claim
from worldcompass.runs.metrics import read_metrics
from worldcompass.runs.results import ForwardPasses, Results, write_results
from worldcompass.runs.settings import by_short_name
from worldcompass.training.averaging import check_members, extend_checkpoint, train_members
from worldcompass.training.config import Config
from worldcompass.training.loop import train_parts
from worldcompass.training.probe import HeldOut
from worldcompass.training.resume import MAY_CHANGE, differences, refuse_changes
from worldcompass.training.run import Parts
from worldcompass.training.stretch import stretch_of_step
from worldcompass.types import Scenario
from worldcompass.version import __version__
from worldcompass.ways import PLAY, ROLLOUT
from worldcompass.world import WorldSpec
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.critics.weights import load_critics, load_judge
from worldcompass.worlds.doom.engine.facts import ACTIONS, THRESHOLDS
from worldcompass.worlds.doom.engine.maps import TRAINING
from worldcompass.worlds.doom.engine.scenarios import (
    draw_all,
    evaluation_plans,
    replay_all,
    scenarios_hash,
    training_scenarios,
)
from worldcompass.worlds.doom.evaluation import Evaluator, Sides, evaluated
from worldcompass.worlds.doom.needs import needs_of
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing
from worldcompass.worlds.doom.rewards.quality import VisualQuality
from worldcompass.worlds.doom.world import WEIGHTS, load_doom_world

NEEDED_BYTES = 500_000_000  # checkpoints with three copies of the weights and the optimiser, two at a time
UNRECORDED_VERSION = "3"  # version of the base weights of runs without a record of it
PROBES_PER_MAP_AND_KIND = 1  # videos of the held-out judge's probes during training
PROBE_LATENTS = 16
WEIGHTED = (
    "interaction",
    "quality",
    "likeness",
    "steadiness",
    "reality",
    "cycle",
)  # rewards of a recipe


@dataclass(frozen=True)
class DoomRecipe:
    """A recipe that evaluates the base, post-trains it and evaluates again."""

    config: Config
    scenarios_per_map: int = 12
    """Fresh scenarios for post-training, per training map."""
    scenario_latents: int = 16
    """Their length, which must include the curriculum's last chunk."""
    evaluation_latents: int = 32
    """Length of the evaluation: 32 latents are 125 frames, 64 are 253, 96 are 381."""
    evaluation_seeds: tuple[int, ...] = (0,)
    """Noise seeds of the evaluation, for both the base and the trained model."""
    evaluation_played_every: int = 2
    """The way ``play`` is evaluated on every so many scenarios of a map and a kind, to save time."""
    unseen: bool = True
    """Also evaluate unseen maps."""
    interaction_weight: float = 2.0
    quality_weight: float = 1.0
    """Of the looks reward of formulas and learned realism; 0 to only monitor it."""
    likeness_weight: float = 0.0
    """Of likeness to reachable truth, see ``TruthPaired``; above 0 for the critic to take part."""
    steadiness_weight: float = 0.0
    """Of colours like reachable truth's, see ``TwoSided``; above 0 for the critic to take part."""
    reality_weight: float = 0.0
    """Of networks that learn to tell candidates from the engine, see ``Discriminator``; above 0 to use it."""
    drift_weight: float = 6.0
    """Weight of colour drift in the quality reward."""
    cycle_weight: float = 0.0
    """Weight of cycle closure; above 0, every training motion is followed by its opposite."""
    members: int = 1
    """Number of runs with different seeds whose weights are averaged, see ``worldcompass.training.averaging``."""
    extend: float = 1.0
    """How far to go from the base towards the mean: 0.5 goes half of the way, 1.5 beyond it."""

    def run(self, out: Path, device: str, resume: bool) -> None:
        """See ``run_experiment``."""
        run_experiment(self, out, device, resume)

    def parts(self, device: str) -> Parts:
        """See ``training_parts``; for ``worldcompass profile``."""
        return training_parts(self, device)

    def needs(self) -> Needs:
        """The needs for ``worldcompass plan``, without loading anything."""
        return needs_of(self.config)


def run_experiment(
    recipe: DoomRecipe, out: Path, device: str, resume: bool, measured_by: Path | None = None
) -> Results:
    """Run a recipe and write results.json and report.html; the main process evaluates.

    Args:
        recipe: to run.
        out: folder of the run.
        device: a device of PyTorch, such as ``cuda``.
        resume: continue the run in ``out``.
        measured_by: a finished run with the same evaluation, whose measurements of engine and base are copied.

    Raises:
        UserError: when ``out`` holds another run, or holds a run and ``resume`` is False.
    """
    begun, team = time.monotonic(), Team.current(recipe.config.parallel.ranks_per_group)
    folder = RunFolder(out)
    if team.size > 1 and recipe.config.parallel.shard:
        raise UserError(
            "the embedded world cannot be sharded, as it fits every process: set config.shard=False"
        )
    weights_of(recipe)
    check_members(recipe.members, recipe.extend)
    if recipe.evaluation_played_every < 1:
        raise UserError(f"evaluation_played_every is {recipe.evaluation_played_every}: set a number above 0")
    team.check_divides(recipe.config.sampling.prompts_per_step)
    team.on_main(lambda: _claim(folder, recipe, resume))
    if measured_by is not None:
        team.on_main(lambda: _take_measurements(folder, RunFolder(measured_by)))
    parts = training_parts(recipe, device)
    world, config = parts.world, parts.config
    judge = load_judge()
    if team.is_main:
        plans = evaluation_plans(None if recipe.unseen else False)
        with progress("replaying the scenarios in the engine", len(plans)) as advance:
            scenarios = replay_all(plans, recipe.evaluation_latents, advance)
        reader = LabelReader(load_critics().motion)
        evaluator = Evaluator(folder, scenarios, judge, reader, recipe.evaluation_played_every)
        engine = evaluator.engine(world.spec)
        base = evaluator.model("base", world, recipe.evaluation_seeds)
    held_out = _held_out(judge, config.seed) if config.keeping.probe_every else None
    if recipe.members == 1:
        started = team.agree(folder.checkpoints.is_dir())
        policy = train_parts(parts, out, resume=resume and started, held_out=held_out)
        if recipe.extend != 1:
            extend_checkpoint(policy, [policy.checkpoint_weights], recipe.extend)
    else:
        world, policy = train_members(
            lambda own: training_parts(replace(recipe, config=own), device),
            recipe.config, recipe.members, recipe.extend, out, held_out,
        )  # fmt: skip
    if not team.is_main:
        return Results()
    with policy.checkpoint():
        with exporting(folder) as weights:
            WEIGHTS.export(world.net, weights / WEIGHTS.net)
        trained = evaluator.model("trained", world, recipe.evaluation_seeds)
    sides = {way: {"engine": engine, "base": base[way], "trained": trained[way]} for way in base}
    results = _results(folder, recipe, world.spec, scenarios, sides, time.monotonic() - begun)
    write_results(folder.results, results)
    evaluator.pictures(world.spec.fps)
    page = write_report(out)
    _headline(
        results, folder, page, "worldcompass train doom_full (half an hour)" if recipe.members == 1 else None
    )
    return results


def training_parts(recipe: DoomRecipe, device: str) -> Parts:
    """The inputs of training: the shipped world and critics, and fresh scenarios from the engine."""
    world, nets = load_doom_world(device=device), load_critics()
    quality = VisualQuality(nets.realism, QualityWeights(drift=recipe.drift_weight))
    critics: tuple[Critic, ...] = (InteractionFollowing(nets.motion), quality)
    if recipe.likeness_weight > 0:
        critics = (*critics, TruthPaired())
    if recipe.steadiness_weight > 0:
        critics = (*critics, TwoSided())
    if recipe.reality_weight > 0:
        critics = (*critics, Discriminator(seed=recipe.config.seed))
    comes_back = recipe.cycle_weight > 0
    if comes_back:
        critics = (*critics, CycleClosure(THRESHOLDS))
    weights = {critic.name: weights_of(recipe)[critic.name] for critic in critics}
    config, count = recipe.config.changed(weights=weights), recipe.scenarios_per_map
    with progress("playing fresh scenarios for training", 4 * count) as advance:
        scenarios = training_scenarios(
            count, recipe.scenario_latents, config.seed, advance, out_and_back=comes_back
        )
    return Parts(world, critics, scenarios, config)


def weights_of(recipe: DoomRecipe) -> dict[str, float]:
    """The recipe's weights by the names of its critics.

    Raises:
        UserError: when they are invalid, or set in ``config.weights``, which these recipes do not read.
    """
    weights = {name: getattr(recipe, f"{name}_weight") for name in WEIGHTED}
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


def _held_out(judge: Judge, seed: int) -> HeldOut:
    """The judge's share of followed actions, on scenarios that neither training nor evaluation uses.

    Reports do not affect training. A rollback by the judge selects by its scores, so it is slightly less
    independent.
    """

    def followed(videos_VF3hw: Tensor, scenarios: Sequence[Scenario]) -> Tensor:
        wanted_VM = torch.stack([s.actions.cameras.labels_K for s in scenarios])
        return (judge.labels(videos_VF3hw.cpu()) == wanted_VM)[:, 1:].double().mean(1)

    drawn = draw_all(TRAINING, KINDS, PROBES_PER_MAP_AND_KIND, PROBE_LATENTS, seed, "probe")
    return HeldOut(followed, [scenario for _, scenario in drawn])


def _claim(folder: RunFolder, recipe: DoomRecipe, resume: bool) -> None:
    """Create the run folder, or check that it holds the same run."""
    out = folder.path
    facts = {"recipe": _described(recipe), "version": __version__, "weights": WEIGHTS.version}
    facts |= {"command": " ".join(["worldcompass", *sys.argv[1:]]), "python": platform.python_version()}
    facts |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    found = claim(out, folder.record, facts, "a run", NEEDED_BYTES)
    if found is not None:
        if not resume:
            raise UserError(f"{out} already holds a run: resume it with --resume or choose another --out")
        if (version := found.get("weights", UNRECORDED_VERSION)) != WEIGHTS.version:
            raise UserError(
                f"{out} started from weights of version {version}, the package holds version {WEIGHTS.version}:"
                " choose another --out"
            )
        defaults = _identity(_described(DoomRecipe(Config())))
        changed = differences(_identity(found["recipe"]), _identity(facts["recipe"]), defaults)
        refuse_changes(out, changed, recipe.config.keeping.accept_changes)
        if changed:
            _forget_evaluations(folder, changed)
            write_json(folder.record, {**found, "recipe": facts["recipe"], "changed": changed}, indent=1)


def _forget_evaluations(folder: RunFolder, changed: Iterable[str]) -> None:
    """Delete stale measurements: those of the trained model, or all if settings of the evaluation changed."""
    everything = any(name.startswith("evaluation_") or name == "unseen" for name in changed)
    trained = [folder.evaluation("trained", way) for way in (ROLLOUT, PLAY)]
    for path in folder.evaluations() if everything else trained:
        path.unlink(missing_ok=True)


def _identity(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings that must equal those of a run to resume it; those that change no result are excluded."""
    settings = by_short_name(recipe["config"])
    config = {k: v for k, v in settings.items() if k not in MAY_CHANGE or k == "steps"}
    return {**recipe, "config": config}


def _described(recipe: DoomRecipe) -> dict[str, Any]:
    fields = {k: v for k, v in vars(recipe).items() if k != "config"}
    return json.loads(json.dumps({**fields, "config": recipe.config.described()}))


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
    folder: RunFolder, recipe: DoomRecipe, spec: WorldSpec, scenarios: Sequence[Scenario],
    sides_of: Mapping[str, Sides], seconds: float,
) -> Results:  # fmt: skip
    sampling, group = recipe.config.sampling, recipe.config.sampling.group_size
    chunks, steps = sampling.last_chunk + 1, sampling.denoising_steps or spec.num_steps
    stretches = [stretch_of_step(sampling, spec, step) for step in range(1, recipe.config.steps + 1)]
    whole = [whole_video_passes(s.chunk + 1, group, s.num_steps, sampling.explore) for s in stretches]
    metrics = read_metrics(folder.metrics)
    sides = sides_of[ROLLOUT]
    return Results(
        evaluation=evaluated(sides_of),
        scenarios_hash=scenarios_hash(scenarios),
        walking=spec.ways,
        seconds=seconds,
        training_seconds=sum(sum(m.seconds.values()) for m in metrics),
        forward_passes=ForwardPasses(
            clip_level=sum(m.forward_passes or 0 for m in metrics),
            whole_video=sampling.prompts_per_step * recipe.members * sum(whole),
            clip_level_per_group=clip_level_passes(chunks, group, steps, sampling.explore),
            whole_video_per_group=whole_video_passes(chunks, group, steps, sampling.explore),
        ),
        per_depth={name: per_depth(side) for name, side in sides.items()},
        per_action={name: per_action(sides[name].select(HELD_OUT), ACTIONS) for name in ("base", "trained")},
    )


def _headline(results: Results, folder: RunFolder, page: Path, further: str | None) -> None:
    """Print the final table and the next command: ``further``, or the player when None."""
    console = Console()
    table = Table(title="Held-out judge, exact 81-class actions per latent (95% interval)", box=SIMPLE)
    for column in ("way", "actions", "base", "trained", "difference", "engine", "gap closed"):
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
    then = further or f"worldcompass play --after {run}"
    console.print(f"Next: {then}, or docs/your_own_world.md for your own model.")
