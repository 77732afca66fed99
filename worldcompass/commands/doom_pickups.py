"""Play pick-up scenes in the engine, and measure how well a critic recognises clips that take the requested item.

Every scene is one path in three layouts: over one item, over another, past both. No network was trained on these
maps, and the engine's own counters are the truth. Writes the scenes (scenes.json, which the engine replays frame by
frame), pictures of them, and the critic's scores with their accuracy (scores.json).

The critic is the embedded one, a judge model (--judge and --model), or your own FILE.py:FUNCTION that returns one.
A judge model's key goes into the environment variable WORLDCOMPASS_JUDGE_KEY.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_out, add_seed, positive
from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from worldcompass.critic import Critic
    from worldcompass.rewards.judge_model import JudgeModel
    from worldcompass.worlds.doom.critic_training.pickup_score import Marks, Verdict
    from worldcompass.worlds.doom.engine.pickup_scenes import Played

EXAMPLES = """\
  worldcompass doom pickups
  worldcompass doom pickups --judge http://127.0.0.1:8000/v1 --model Qwen/Qwen2.5-VL-7B-Instruct --per-map 4
  worldcompass doom pickups --critic my_critic.py:make
"""
LARGE = (240, 320)  # height and width of frames for judge models
LAYOUTS = 3  # clips of a scene
SHOWN_PER_MAP = 5  # scenes on a map's picture: one of every kind of path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doom pickups``."""
    parser.add_argument(
        "--critic", metavar="FILE.py:FUNCTION", help="your own critic (default: the embedded one)"
    )
    parser.add_argument(
        "--judge", metavar="ADDRESS", help="server of a judge model, such as http://127.0.0.1:8000/v1"
    )
    parser.add_argument("--model", metavar="NAME", help="name of the judge model on its server")
    parser.add_argument("--pairs", action="store_true", help="let the judge model compare pairs of clips")
    text = "most requests to the judge model (default: %(default)s)"
    parser.add_argument("--requests", type=positive, default=2000, metavar="N", help=text)
    text = "scenes of each of the four maps (default: %(default)s)"
    parser.add_argument("--per-map", type=positive, default=16, metavar="N", help=text)
    add_out(parser, "runs/pickups", "where scenes, pictures and scores go")
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Draw scenes, write them, score them and print the scores."""
    critic, judge = _critic_of(args)
    from worldcompass.media.progress import progress
    from worldcompass.worlds.doom.critic_training.pickup_data import prefix_of
    from worldcompass.worlds.doom.critic_training.pickup_score import judge_marks, mark
    from worldcompass.worlds.doom.engine.maps import UNSEEN
    from worldcompass.worlds.doom.engine.pickup_scenes import draw_scenes, replay_scenes, save_scenes

    args.out.mkdir(parents=True, exist_ok=True)
    with progress("playing scenes in the engine", args.per_map * len(UNSEEN)) as advance:
        scenes = draw_scenes(UNSEEN, args.per_map, args.seed, prefix_of("unseen"), advance)
    save_scenes(args.out / "scenes.json", [played.scene for played in scenes])
    if judge is not None:
        with progress("replaying the scenes at a larger size", len(scenes)) as advance:
            scenes = replay_scenes([played.scene for played in scenes], LARGE, advance)
    with progress("scoring", len(scenes)) as advance:
        try:
            marks = mark(critic, scenes, advance)
        except ValueError as error:
            raise UserError(f"{critic.name} cannot be measured: it {error}") from error
    verdict = judge_marks(marks)
    _write_pictures(args.out, scenes, marks)
    scores = {"critic": critic.name, "seed": args.seed, **verdict.to_json(), "values": _listed(scenes, marks)}
    write_json(args.out / "scores.json", scores, indent=1)
    print_verdict(critic.name, verdict)
    if judge is not None:
        print(f"judge model: {judge.tally}")
    return 0


def _critic_of(args: argparse.Namespace) -> tuple[Critic, JudgeModel | None]:
    """The critic, and its judge model, whose cost is printed; None for other critics."""
    if args.judge is None:
        if args.model or args.pairs:
            raise UserError("--model and --pairs belong to a judge model: name its server with --judge")
        if args.critic is not None:
            from worldcompass.commands.audit import critic_of

            return critic_of(args.critic)[0], None
        from worldcompass.worlds.doom.rewards.pickup import PickupFollowing

        return PickupFollowing(), None
    if args.critic is not None or not args.model:
        raise UserError("--judge needs the --model on its server and excludes --critic: name the model alone")
    from worldcompass.rewards.judge_model import Budget, JudgeModel
    from worldcompass.rewards.language import InstructionRank, InstructionScore

    budget = Budget(requests=args.requests)
    judge = JudgeModel(args.judge, args.model, cache=args.out / "answers", budget=budget)
    return (InstructionRank if args.pairs else InstructionScore)(judge), judge


def print_verdict(name: str, verdict: Verdict) -> None:
    """Print the table and the other measures."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from worldcompass.audit.run import shown

    title = f"{name}: {verdict.scenes} scenes"
    table = Table(title=title, box=SIMPLE)
    table.add_column("measure")
    table.add_column("percent [95%]", justify="right")
    table.add_row("right answers (balanced over yes and no)", shown(verdict.accuracy))
    for outcome, value in verdict.right.items():
        table.add_row(f"right where the clip {outcome}", shown(value))
    for outcome, value in verdict.ranked.items():
        table.add_row(f"ranked above the clip that {outcome}", shown(value))
    for kind, value in (*verdict.by_path.items(), *verdict.by_item.items()):
        table.add_row(f"ranked right: {kind}", shown(value))
    Console().print(table)
    rho = verdict.correlation
    print(f"rank correlation with the truth: {rho.mean:.2f} [{rho.low:.2f}, {rho.high:.2f}]")
    if verdict.calibration is not None:
        print(f"distance between score and truth: {verdict.calibration:.3f}")
    print(f"abstained from {verdict.abstained:.1%} of the questions; an abstention counts as half right")


def _listed(scenes: list[Played], marks: Marks) -> list[dict]:
    """Scores by scene and requested item, in the order: takes it, takes the other, takes nothing."""
    rows = []
    for played, values in zip(scenes, marks.values_SWO, strict=True):
        scores = [[None if v != v else round(float(v), 6) for v in line] for line in values]
        rows.append({"scene": played.scene.id, **dict(zip(played.scene.words, scores, strict=True))})
    return rows


def _write_pictures(out: Path, scenes: list[Played], marks: Marks) -> None:
    """Write filmstrips of the first scenes of every map, labelled with the taken item and the scores."""
    from worldcompass.media.video import filmstrips, save_png
    from worldcompass.worlds.doom.critic_training.pickup_score import outcome_of

    strips: dict[str, list[tuple[Tensor, str]]] = {}
    for played, values in zip(scenes, marks.values_SWO, strict=True):
        rows = strips.setdefault(played.scene.map_name, [])
        for clip, taken in enumerate(played.scene.taken):
            scores = [
                f"{word} {values[w, outcome_of(played, clip, word)]:.2f}"
                for w, word in enumerate(played.scene.words)
            ]
            words = (
                f"{played.scene.path}: takes {taken[0] if taken else 'nothing'}; scores: {', '.join(scores)}"
            )
            rows.append((played.frames_GF3hw[clip], words))
    for map_name, rows in strips.items():
        frames, labels = zip(*rows[: LAYOUTS * SHOWN_PER_MAP], strict=True)
        scale = 2 if frames[0].shape[-1] < 100 else 1
        save_png(out / f"{map_name}.png", filmstrips(frames, labels, 3, scale))
