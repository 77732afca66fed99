"""The obvious rival of post-training: the base, guided while it samples.

``python benchmarks/guidance.py --weights 0 1 --project`` imagines the frozen evaluation scenarios with guidance
``c + g (c - c_weak)`` (decision 7) at every weight g and prints what the held-out judge says, and the seconds. With
``--project`` the part of the difference along c, which raises contrast, is left out of every latent (adaptive
projected guidance, arXiv 2410.02416, with eta = 0).
Guidance costs two passes per denoising step forever; post-training costs nothing once it is done.
"""

from __future__ import annotations

import argparse
import time

from torch import Tensor

from worldcompass.evaluate import KINDS, MEASURES, imagine_all, measure
from worldcompass.types import Actions
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.critics.weights import load_critics, load_judge
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all
from worldcompass.worlds.doom.evaluation import blocks_of
from worldcompass.worlds.doom.world import DoomContext, DoomWorld, load_doom_world


class GuidedWorld(DoomWorld):
    """The embedded world whose every clean estimate is guided."""

    def __init__(self, world: DoomWorld, guidance: float, project: bool) -> None:
        super().__init__(world.autoencoder, world.net)
        self.guidance, self.project = guidance, project

    def predict_clean(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: DoomContext
    ) -> Tensor:
        """Guided away from the estimate without the reprojected view."""
        clean = super().predict_clean(noisy_BCKHW, sigma_B, actions, context)
        if not self.guidance:
            return clean
        weak = super().predict_clean(noisy_BCKHW, sigma_B, actions, self.weaken(context))
        away = clean - weak
        if self.project:
            along = (away * clean).sum((1, 3, 4), keepdim=True) / clean.square().sum((1, 3, 4), keepdim=True)
            away = away - along * clean
        return clean + self.guidance * away


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="+", type=float, default=[0.0, 1.0], metavar="G")
    parser.add_argument("--project", action="store_true", help="guide without raising contrast")
    parser.add_argument(
        "--latents", type=int, default=32, help="length of the rollouts (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    world = load_doom_world()
    judge, reader = load_judge(), LabelReader(load_critics().motion)
    scenarios = replay_all(evaluation_plans(), args.latents)
    for guidance in args.weights:
        begun = time.perf_counter()
        videos = imagine_all(GuidedWorld(world, guidance, args.project), scenarios, args.seed)
        seconds = time.perf_counter() - begun
        measured = measure(videos, scenarios, world.spec, judge, reader)
        blocks = blocks_of(measured, measured, None)
        print(f"guidance {guidance:g}, {seconds:.0f} s")
        for title, part in (("held-out starts", blocks), ("maps never trained on", blocks["unseen_maps"])):
            for kind in KINDS:
                scores = ", ".join(f"{name} {part['base'][kind][name]['mean']:.3f}" for name in MEASURES)
                print(f"  {title}, {kind}: {scores}", flush=True)


if __name__ == "__main__":
    main()
