"""Do rewards prefer what is true? Rewards and distances to truth along the axis of exploration, untrained.

``python benchmarks/step_zero.py`` imagines chunks 0, 2 and 5 of fresh scenarios of the Doom world; with ``--world
hands``, of the training scenarios of Hands. The candidates of a group share a past. Some share a noise and differ
in guidance, plain and projected; some have no guidance and noises of their own. Each candidate gets every part of
the rewards, and its distance to *reachable truth*: the engine's video through the autoencoder. Printed are

- the mean of every number by guidance, and the Frechet distance of all frames to reachable truth;
- the rank correlation of every reward with nearness to truth within groups, with a 95% interval over scenarios.

The discriminator (``reality``) scores each scenario before it learns from it, as in training.

A reward whose correlation is not above 0 is no reward. All numbers go to ``--out``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldcompass.critic import Critic
from worldcompass.guidance import Guidance
from worldcompass.media.pixels import gain_limited_vif, luma
from worldcompass.media.progress import progress
from worldcompass.reachable import reachable_truth, true_past
from worldcompass.rewards.discriminator import Discriminator
from worldcompass.rewards.quality import formula_parts
from worldcompass.rewards.random_features import RandomFeatures
from worldcompass.rewards.reference import psnr
from worldcompass.rewards.truth_paired import TruthPaired, colour_distance, flicker_distance
from worldcompass.rollout import chunk_actions, chunk_noise, imagine_chunk, imagine_past, make_group
from worldcompass.runs.atomic import write_json
from worldcompass.statistics import UNKNOWN, Estimate, bootstrap, rank_correlation, resamples
from worldcompass.types import Group, Scenario
from worldcompass.world import WorldModel

CHUNK = 4  # latents
STEPS = 0.25  # of guidance
FRECHET_SEED, FRECHET_DIMENSIONS = 77, 48  # another random network than the reward's
NEARNESS = ("fidelity", "features", "psnr")  # to reachable truth, higher is nearer
DESCRIBED = ("gradient", "contrast", "fit")


@dataclass(frozen=True)
class Arm:
    """One way in which a candidate is made."""

    name: str
    weight: float
    projected: bool = False
    noise: int = 0


@dataclass(frozen=True)
class Ground:
    """A world with the rewards of its own."""

    load: Callable[[Path | None], WorldModel[Any]]
    scenarios: Callable[[int, int, int], Sequence[Scenario]]
    """Of a number per map and kind, latents and a seed; with the engine's continuation."""
    rewards: Callable[[], Callable[[Group], dict[str, Tensor]]]
    """Makes the function from a group to the world's own numbers, (G,) each."""


def doom() -> Ground:
    """Fresh scenarios of the training maps."""
    from worldcompass.worlds.doom.engine.maps import TRAINING
    from worldcompass.worlds.doom.engine.scenarios import KINDS, draw_all
    from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing
    from worldcompass.worlds.doom.rewards.quality import VisualQuality
    from worldcompass.worlds.doom.world import load_doom_world

    def rewards() -> Callable[[Group], dict[str, Tensor]]:
        interaction, quality = InteractionFollowing(), VisualQuality()
        return lambda group: {
            **_values([interaction, quality], group),
            **formula_parts(group),
            "realism": quality.parts(group)["realism"],
        }

    def scenarios(per_kind: int, latents: int, seed: int) -> list[Scenario]:
        return [s for _, s in draw_all(TRAINING, KINDS, per_kind, latents, seed, "step zero")]

    return Ground(load_doom_world, scenarios, rewards)


def hands() -> Ground:
    """The training scenarios of the package: combined ones first, then instructions."""
    from worldcompass.worlds.hands.footage import shipped_scenarios
    from worldcompass.worlds.hands.rewards.interaction import GripperFollowing
    from worldcompass.worlds.hands.rewards.objects import Grasp, Passivity, Permanence
    from worldcompass.worlds.hands.world import load_hands_world

    def scenarios(per_kind: int, latents: int, seed: int) -> list[Scenario]:
        every = shipped_scenarios("training", latents)
        kinds = [[s for s in every if s.kind == kind] for kind in ("combined", "instruction")]
        return [s for kind in kinds for s in kind[: 3 * per_kind]]

    def rewards() -> Callable[[Group], dict[str, Tensor]]:
        own = [GripperFollowing(), Permanence(), Passivity(), Grasp()]
        return lambda group: _values(own, group)

    return Ground(load_hands_world, scenarios, rewards)


def _values(critics: Sequence[Critic], group: Group) -> dict[str, Tensor]:
    scores = {critic.name: critic(group) for critic in critics}
    return {name: torch.where(found.valid_G, found.values_G, torch.nan) for name, found in scores.items()}


GROUNDS = {"doom": doom, "hands": hands}


def arms(most: float, free: int) -> list[Arm]:
    """Plain guidance from 0, projected guidance, and noises of their own."""
    weights = np.arange(0, most + 1e-9, STEPS).tolist()
    plain = [Arm("plain", w) for w in weights]
    return [
        *plain,
        *(Arm("projected", w, True) for w in weights[1:]),
        *(Arm("free", 0.0, noise=n) for n in range(1, free + 1)),
    ]


def imagine(
    world: WorldModel[Any],
    scenario: Scenario,
    chunk: int,
    tried: Sequence[Arm],
    steps: int,
    true: bool,
    seed: int,
) -> Group:
    """The candidates of one group, after an imagined or a true past."""
    sigmas, keys = world.spec.sigmas(steps), [(seed, "past", scenario.id)]
    past = (
        true_past(world, [scenario], chunk, CHUNK, keys)
        if true
        else imagine_past(world, [scenario], chunk, CHUNK, keys, sigmas)
    )
    actions = chunk_actions(world, [scenario], chunk, CHUNK)
    attended = world.attend(past.context, actions)
    noise = chunk_noise(world, CHUNK, [(seed, "future", scenario.id, chunk, arm.noise) for arm in tried])
    guidance = Guidance(torch.tensor([a.weight for a in tried]), torch.tensor([a.projected for a in tried]))
    clean = imagine_chunk(world, attended, actions, noise, sigmas, guidance)
    group = make_group(
        world,
        scenario,
        world.decode(clean, attended),
        past.frames_PF3hw[0],
        chunk * CHUNK,
        (chunk + 1) * CHUNK,
    )
    return replace(group, true_past=true, guidance_G=guidance.weight_B)


class Measures:
    """Every reward, and nearness to truth in several measures."""

    def __init__(self, own: Callable[[Group], dict[str, Tensor]]) -> None:
        self.own, self.likeness = own, TruthPaired()
        self.features, self.reality = RandomFeatures(FRECHET_SEED), Discriminator()

    def of(self, group: Group) -> dict[str, Tensor]:
        """Every number by its name; (G,)."""
        assert group.truth is not None
        assert group.truth.reachable_F3hw is not None
        frames, true = group.frames_GF3hw, group.truth.reachable_F3hw
        pair = frames.flatten(0, 1), true.expand_as(frames).flatten(0, 1)

        def per_candidate(values: Tensor) -> Tensor:
            return values.unflatten(0, frames.shape[:2]).mean(1)

        likeness, fit = self.likeness.parts(frames, true)
        reality = self.reality(group)
        return {
            **self.own(group),
            "likeness": likeness,
            "reality": torch.where(reality.valid_G, reality.values_G, torch.nan),
            "colour": colour_distance(frames, true),
            "steady": flicker_distance(frames, true),
            "fidelity": per_candidate(gain_limited_vif(*pair)),
            "features": -per_candidate(self.features.distance(*pair)),
            "psnr": per_candidate(psnr(*pair)),
            "gradient": (_gradient(frames) / _gradient(true)).log(),
            "contrast": (luma(frames).std((-2, -1)).mean(-1) / luma(true).std((-2, -1)).mean(-1)).log(),
            "fit": fit,
        }


def _gradient(frames: Tensor) -> Tensor:
    bright = luma(frames)
    return bright.diff(dim=-1).abs().mean((-3, -2, -1)) + bright.diff(dim=-2).abs().mean((-3, -2, -1))


def frechet(features_ND: np.ndarray, true_ND: np.ndarray) -> float:
    """Frechet distance of two clouds of features in the true cloud's main directions, each of unit size."""
    centre = true_ND.mean(0)
    _, size, directions = np.linalg.svd(true_ND - centre, full_matrices=False)
    scale = size[:FRECHET_DIMENSIONS] / np.sqrt(len(true_ND))
    a, b = (((x - centre) @ directions[:FRECHET_DIMENSIONS].T) / scale for x in (features_ND, true_ND))
    shift = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    roots = np.linalg.eigvals(cov_a @ cov_b).real.clip(0)
    return shift + float(np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(roots).sum())


def correlation(
    rows: Mapping[tuple[str, int], Mapping[str, np.ndarray]], places: Sequence[int], reward: str, near: str
) -> Estimate:
    """Mean rank correlation within groups over the candidates in ``places``; interval over scenarios."""
    by_scenario: dict[str, list[float]] = defaultdict(list)
    for (scenario, _), values in rows.items():
        a, b = values[reward][places], values[near][places]
        if np.isfinite(a).all() and a.std() > 0 and b.std() > 0:
            by_scenario[scenario].append(rank_correlation(a, b))
    values = np.array([np.mean(found) for found in by_scenario.values()])
    if len(values) < 2:
        return UNKNOWN
    picks = resamples(list(by_scenario))
    return bootstrap(values[picks].mean(1), float(values.mean()), len(values))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=tuple(GROUNDS), default="doom")
    parser.add_argument(
        "--per-map-and-kind", type=int, default=3, help="scenarios (default: 3, 18 or 24 in all)"
    )
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 2, 5])
    parser.add_argument("--most", type=float, default=1.5, help="largest guidance")
    parser.add_argument("--free", type=int, default=6, help="candidates with own noise")
    parser.add_argument("--steps", type=int, default=3, help="denoising steps, as in the recipe")
    parser.add_argument("--true-pasts", action="store_true", help="chunks after the engine's own past")
    parser.add_argument("--weights", type=Path, help="folder of other weights of the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("step_zero.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ground = GROUNDS[args.world]()
    tried, world, measures = arms(args.most, args.free), ground.load(args.weights), Measures(ground.rewards())
    scenarios = ground.scenarios(args.per_map_and_kind, (max(args.chunks) + 1) * CHUNK, args.seed)
    rows: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    clouds: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
    with progress("imagining", len(scenarios)) as advance, torch.no_grad():
        for scenario in scenarios:
            assert scenario.truth is not None
            truth = replace(scenario.truth, reachable_F3hw=reachable_truth(world, [scenario])[0])
            groups: list[Group] = []
            for chunk in args.chunks:
                group = imagine(
                    world,
                    replace(scenario, truth=truth),
                    chunk,
                    tried,
                    args.steps,
                    args.true_pasts,
                    args.seed,
                )
                rows[scenario.id, chunk] = {
                    name: part.double().numpy() for name, part in measures.of(group).items()
                }
                groups.append(group)
                assert group.truth is not None
                assert group.truth.reachable_F3hw is not None
                for place, frames in enumerate([*group.frames_GF3hw, group.truth.reachable_F3hw]):
                    clouds[chunk, place].append(measures.features.pooled(frames).double().numpy())
            # After it has scored them, as in training.
            with torch.enable_grad():
                keys = (args.seed, len(rows))
                measures.reality.learn(measures.reality.examples(groups, keys), keys)
            advance()
    summary = {"arms": [vars(arm) for arm in tried], "settings": {k: str(v) for k, v in vars(args).items()}}
    names = list(next(iter(rows.values())))
    rewards = [name for name in names if name not in (*NEARNESS, *DESCRIBED)]
    summary |= {"by_arm": _by_arm(rows, clouds, args.chunks, tried, names)}
    summary |= {"correlations": _correlations(rows, tried, rewards)}
    numbers = [
        {"scenario": s, "chunk": c, **{n: v.round(5).tolist() for n, v in row.items()}}
        for (s, c), row in rows.items()
    ]
    write_json(args.out, {**summary, "groups": numbers})


def _by_arm(
    rows: Mapping[tuple[str, int], Mapping[str, np.ndarray]],
    clouds: Mapping[tuple[int, int], list[np.ndarray]],
    chunks: Sequence[int],
    tried: Sequence[Arm],
    names: Sequence[str],
) -> list[dict[str, object]]:
    """Means of every number by chunk and arm, printed as a table."""
    found: list[dict[str, object]] = []
    print(f"| chunk | arm | g | {' | '.join(names)} | Frechet |\n|{'---|' * (len(names) + 4)}")
    for chunk in chunks:
        own = [row for (_, c), row in rows.items() if c == chunk]
        true = np.concatenate(clouds[chunk, len(tried)])
        for arm in dict.fromkeys((a.name, a.weight) for a in tried):
            places = [i for i, a in enumerate(tried) if (a.name, a.weight) == arm]
            means = {name: float(np.nanmean([row[name][places] for row in own])) for name in names}
            far = float(np.mean([frechet(np.concatenate(clouds[chunk, i]), true) for i in places]))
            print(
                f"| {chunk} | {arm[0]} | {arm[1]:g} | {' | '.join(f'{means[n]:.3f}' for n in names)} | {far:.2f} |"
            )
            found.append({"chunk": chunk, "arm": arm[0], "g": arm[1], **means, "frechet": far})
    return found


def _correlations(
    rows: Mapping[tuple[str, int], Mapping[str, np.ndarray]], tried: Sequence[Arm], rewards: Sequence[str]
) -> list[dict[str, object]]:
    """Rank correlations within groups of every reward with every nearness, printed as a table."""
    found: list[dict[str, object]] = []
    sets = {
        "plain": [i for i, a in enumerate(tried) if a.name == "plain"],
        "projected": [0, *(i for i, a in enumerate(tried) if a.name == "projected")],
        "free": [i for i, a in enumerate(tried) if a.name == "free"],
        "all": list(range(len(tried))),
    }
    print(f"\n| candidates | reward | {' | '.join(NEARNESS)} |\n|{'---|' * (2 + len(NEARNESS))}")
    for name, places in sets.items():
        for reward in rewards if len(places) > 2 else ():
            estimates = {near: correlation(rows, places, reward, near) for near in NEARNESS}
            print(f"| {name} | {reward} | {' | '.join(str(e) for e in estimates.values())} |")
            found.append(
                {"candidates": name, "reward": reward, **{n: e.to_json() for n, e in estimates.items()}}
            )
    return found


if __name__ == "__main__":
    main()
