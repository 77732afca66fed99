"""Estimate what a recipe needs before anything is loaded: memory per GPU, files, matching checkpoints.

The estimate counts live tensors, traced on the recipe's own code without data, in the types and with the kernels
that CUDA would choose. The verdict adds what is assumed: a slack of 10%, 1 GiB for CUDA, and 1 GiB for NCCL.
--gpus splits the prompts of a step over GPUs, and config.shard the weights too. --hours also counts operations, and
shows how long a step and the run take at several assumed shares of a GPU's peak rate.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_settings, positive
from worldcompass.errors import UserError
from worldcompass.runs.requirements import GIB

if TYPE_CHECKING:
    from worldcompass.cost.plan import Needs, Plan
    from worldcompass.runs.requirements import NeededFile, NeededModule

EXAMPLES = """\
  worldcompass plan worldplay_8b:lora
  worldcompass plan worldplay_8b --gpus 8 --memory 96 --hours
  worldcompass plan worldplay_5b:lora --checkpoints checkpoints/worldplay-5b
"""

MIB = 1 << 20
MOST_DIFFERENCES = 20  # printed for one file
DETAIL = "  "  # before the lines on one file
CARD_OF_80_GB = 79.0  # GiB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass plan``."""
    parser.add_argument("recipe", metavar="RECIPE", help="as for worldcompass train")
    add_settings(parser)
    text = "GPUs that share the work (default: %(default)s)"
    parser.add_argument("--gpus", type=positive, default=1, metavar="N", help=text)
    text = "memory of each GPU in GiB (default: this machine's GPU, else 79, which a card of 80 GB has)"
    parser.add_argument("--memory", type=float, default=None, metavar="GIB", help=text)
    parser.add_argument(
        "--hours", action="store_true", help="count operations and estimate how long a run takes"
    )
    text = "folder of the official files (default: the recipe's)"
    parser.add_argument("--checkpoints", type=Path, default=None, metavar="FOLDER", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the plan; exit code 0 when it fits and every file is present and matches, else 1."""
    from worldcompass.cost.plan import make_plan, what_to_lower
    from worldcompass.recipes.load import make_recipe
    from worldcompass.recipes.overrides import override

    source = [] if args.checkpoints is None else [f"source.checkpoints={args.checkpoints}"]
    recipe = override(make_recipe(args.recipe), [*args.assignments, *source])
    if not hasattr(recipe, "needs"):
        raise UserError(
            f"{args.recipe} declares no needs: give it a method needs() -> worldcompass.cost.plan.Needs"
        )
    here = _memory_here()
    memory = (args.memory or here or CARD_OF_80_GB) * GIB
    assumed = args.memory is None and here is None
    needs = recipe.needs()
    # Files first: their problems show at once, while tracing a large network takes a minute or two.
    problems = _file_lines(needs.files, needs.modules)
    print("\n".join([*(problems or ["files: all present"]), *needs.notes, ""]), flush=True)
    with warnings.catch_warnings():
        # PyTorch's warnings about kernels do not apply, as the trace computes nothing.
        warnings.simplefilter("ignore")
        plan = make_plan(needs, args.gpus)
    print("\n".join(_memory_lines(plan, memory)), flush=True)
    if assumed:
        print(
            "This machine has no GPU: the size above is a card of 80 GB (--memory names another).", flush=True
        )
    if args.hours:
        print("\n".join(_time_lines(needs, args.gpus)))
    if not plan.fits(memory):
        print(f"the phase {plan.worst_phase} needs the most memory: {what_to_lower(plan, needs.config)}")
    if problems:
        print("\n".join(_again(problems)))
    return 0 if plan.fits(memory) and not problems else 1


def _again(problems: Sequence[str]) -> list[str]:
    """The missing and unfit files once more: the last line says why the exit code is not 0."""
    things = sum(not line.startswith(DETAIL) for line in problems)
    return [
        "",
        *problems,
        f"the run cannot start: {things} input{'s' * (things > 1)} above, missing or of another model",
    ]


def _memory_here() -> float | None:
    """GiB of this machine's GPU; None without one."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else None


def _memory_lines(plan: Plan, memory: float) -> list[str]:
    states, traced = plan.states, plan.traced
    rows = {
        "weights": states.weights / plan.shards,
        "other modules (decoder)": states.other,
        "critics' networks (assumed)": states.critics,
        "averages (behaviour, checkpoint, reference)": states.averages / plan.shards,
        "copy of the weights while averages are in use": states.swap / plan.shards,
        "optimiser state": states.optimizer / plan.shards,
        "optimiser step": states.optimizer_step,
        "gradients": states.gradients / plan.shards,
        "gathered weights (assumed 3 units at once)": plan.gathered,
        "their gradients (assumed 2 units at once)": plan.reduced,
        f"prefix of {plan.pasts} past(s)": traced.prefix,
        "frames of the past(s)": plan.past_frames,
        "frames of candidates, training rows": plan.futures,
        "activations: attend": traced.attend,
        "activations: one denoising step": traced.imagine,
        "activations: forward and backward": traced.update,
        "decode": traced.decode,
    }
    verdict = "fits into" if plan.fits(memory) else "DOES NOT FIT into"
    return [
        f"parameters {states.parameters:,}, trained {states.trainable:,}",
        f"on each of {plan.gpus} GPU(s):",
        *[f"  {name:<46}{_readable(size):>12}" for name, size in rows.items() if size],
        "peak of each phase:",
        *[f"  {name:<46}{_readable(size):>12}" for name, size in plan.phases.items()],
        f"{_readable(plan.peak)}, with 10% and {_readable(plan.assumed)} assumed on top, {verdict}"
        f" {memory / GIB:.0f} GiB",
    ]


def _time_lines(needs: Needs, gpus: int) -> list[str]:
    from worldcompass.cost.plan import count_work
    from worldcompass.cost.work import PEAK, SHARES, step_work

    config, work = needs.config, count_work(needs)
    steps = config.sampling.denoising_steps or len(needs.spec.sigmas()) - 1
    first, last = config.sampling.first_chunk, config.sampling.last_chunk
    chunks = range(first, last + 1)
    of_chunk = {c: step_work(work, config, c, needs.num_chunks, steps) for c in chunks}
    shown = sorted({first, (first + last) // 2, last})
    mean = {s: sum(w.seconds(s, gpus) for w in of_chunk.values()) / len(chunks) for s in SHARES}

    def row(name: str, values: Sequence[str]) -> str:
        return f"  {name:<46}{''.join(f'{value:>12}' for value in values)}"

    return [
        f"time on {gpus} GPU(s) of {PEAK / 1e12:.0f} TFLOP/s, at assumed shares of it, without critics:",
        row("", [f"{share:.0%}" for share in SHARES]),
        *[
            row(
                f"one step on clip {c + 1}", [_duration(of_chunk[c].seconds(share, gpus)) for share in SHARES]
            )
            for c in shown
        ],
        row(f"{config.steps} steps", [_duration(config.steps * mean[share]) for share in SHARES]),
    ]


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _readable(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / MIB:.2f} MiB"


def _file_lines(files: Sequence[NeededFile], modules: Sequence[NeededModule] = ()) -> list[str]:
    from worldcompass.runs.requirements import differences, lacking

    lines = [f"missing: {thing}" for thing in lacking(files, modules)]
    for file in files:
        wrong = differences(file)
        lines += [f"{file.path} does not match this recipe:"] if wrong else []
        lines += [f"{DETAIL}{line}" for line in wrong[:MOST_DIFFERENCES]]
    return lines
