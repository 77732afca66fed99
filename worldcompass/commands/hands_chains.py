"""Count how many sub-goals in a row succeed in the Hands world model, and in the engine.

A planner picks up one thing after another and puts each into the other half of the table. It looks at pictures
alone. A chain ends with the first sub-goal that fails. The same command resumes a stopped measurement.
"""

from __future__ import annotations

import argparse

from worldcompass.commands._options import (
    add_checkpoint,
    add_device,
    add_out,
    add_seed,
    check_checkpoint,
    check_device,
    positive,
)
from worldcompass.errors import UserError

EXAMPLES = """\
  worldcompass hands chains --scenes 8                       # the shipped weights
  worldcompass hands chains --checkpoint runs/hands_demo --out runs/chains_demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass hands chains``."""
    add_checkpoint(parser)
    text = "scenes (default: %(default)s)"
    parser.add_argument("--scenes", type=positive, default=24, metavar="N", help=text)
    text = "split of the scenes, such as heldout or unseen_looks (default: %(default)s)"
    parser.add_argument("--split", default="heldout", metavar="NAME", help=text)
    add_out(parser, "runs/hands_chains", "where chains.json goes")
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Run the chains, print and write them."""
    check_checkpoint(args.checkpoint)
    device = check_device(args.device)
    from worldcompass.media.progress import progress
    from worldcompass.runs.atomic import write_json
    from worldcompass.runs.folder import claim, weights_folder
    from worldcompass.worlds.hands.policies.chains import (
        BASE,
        LATENTS,
        MOST,
        TRAINED,
        draw_starts,
        measure_chains,
    )
    from worldcompass.worlds.hands.world import WEIGHTS, load_hands_world

    named = {BASE: None} | ({TRAINED: args.checkpoint} if args.checkpoint else {})
    folders = {side: path and weights_folder(path, WEIGHTS.net) for side, path in named.items()}
    weights = {side: WEIGHTS.fingerprint(folder) for side, folder in folders.items()}
    facts = {"split": args.split, "scenes": args.scenes, "seed": args.seed, "weights": weights}
    starts = draw_starts(args.split, args.scenes)
    known = claim(args.out, args.out / "asked.json", facts, "chains of sub-goals")
    if known not in (None, facts):
        raise UserError(f"{args.out} holds chains of other scenes, seed or weights: choose another --out")
    worlds = {side: load_hands_world(folder, device) for side, folder in folders.items()}
    with progress("chains of sub-goals, latents at most", LATENTS * len(worlds)) as advance:
        found = measure_chains(args.out / "sides", starts, worlds, args.seed, advance)
    print(
        f"sub-goals in a row, of {MOST} [95% over {args.scenes} scenes], and the share of scenes that reach"
    )
    for side in found.lengths:
        mean = found.mean(side)
        shares = "  ".join(f"{n}: {100 * found.reached(side, n):.0f}%" for n in range(1, MOST + 1))
        print(f"  {side:8} {mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]  {shares}")
    write_json(args.out / "chains.json", {**facts, "lengths": dict(found.lengths)})
    print(f"wrote {args.out / 'chains.json'}")
    return 0
