"""Can this recipe learn anything? What groups agree on, as a share of a group's squared gradient.

``python benchmarks/agreement.py --set config.shared_noise=False`` imagines groups with the start weights of the
demo's recipe, takes the gradient of every group's loss for each reward alone, and prints for scales and weights of
the advantages

    share = (|sum X|^2 - sum |X|^2) / (n (n - 1)) / mean |X|^2,    X: gradients of n groups.

Groups without anything in common give 0, groups that all say the same give 1. An update on n groups follows
what they agree on when share * n exceeds 1. The loss is linear in the advantages where policy and behaviour are the
same weights and nothing is clipped, so two gradients per group serve all scales and weights.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from worldcompass.media.progress import progress
from worldcompass.recipes.demo import demo
from worldcompass.recipes.overrides import override
from worldcompass.rollout import Futures
from worldcompass.training.advantages import Scale, all_groups, damped, group_advantages, own_group
from worldcompass.training.curriculum import chunk_of_step, scenarios_of_step
from worldcompass.training.run import Run, prepare
from worldcompass.training.scores import Verdicts
from worldcompass.training.selection import Chosen, Rows, choose, share_out
from worldcompass.training.step import predict
from worldcompass.types import Actions, Samples
from worldcompass.worlds.doom.experiment import training_parts

SCALES: tuple[Scale, ...] = (all_groups, own_group, damped)
WEIGHTS = ((1, 0), (0, 1), (2, 1), (1, 1), (1, 2))


def rows_of_group(run: Run, chosen: Chosen, group: int, sigmas: Tensor) -> list[Rows]:
    """The training rows of one group alone."""
    size = len(chosen.row_keys) // chosen.samples.context.num_pasts
    own = slice(group * size, (group + 1) * size)
    samples = Samples(
        chosen.samples.clean_BCKHW[own],
        chosen.samples.advantage_B[own],
        Actions.stack([chosen.samples.actions.select(group)]),
        chosen.samples.context.select(group),
    )
    part = Chosen(samples, chosen.row_keys[own])
    return share_out([part], sigmas, run.config.noise_levels, 1, run.config.micro_rows)[0]


def gradient(run: Run, rows: list[Rows]) -> Tensor:
    """Gradient of one group's loss at the behaviour weights, (D,)."""
    run.optimizer.zero_grad(set_to_none=True)
    for part in rows:
        clean = predict(run, part)
        loss_B, _ = run.config.objective(
            clean, clean.detach(), part.clean_BCKHW, part.advantage_B, run.config.beta, part.context.given_K
        )
        loss_B.mean().backward()
    return torch.cat([p.grad.flatten() for p in run.policy.parameters if p.grad is not None])


def step_gradients(run: Run, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (R, N, D) of one step's groups by reward, their scores (N, G, R) and which are valid."""
    config, world, keys = run.config, run.world, (run.config.seed, "agreement", step)
    scenarios = scenarios_of_step(run.scenarios, config, step)
    sigmas = world.spec.sigmas(config.denoising_steps)
    futures: list[Futures] = config.rollout(
        world, scenarios, chunk_of_step(config, step), run.chunk_length, config.group_size, keys, sigmas,
        config.explore, config.shared_noise,
    )  # fmt: skip
    verdicts = Verdicts(run.critics)
    verdicts.ask(group for part in futures for group in part.groups)
    scores, valid = verdicts.collect()
    gradients = []
    for reward in range(len(run.critics)):
        weights = torch.eye(len(run.critics))[reward]
        advantages = group_advantages(scores, valid, weights, own_group, config.advantage_clip)
        (chosen,) = choose(futures, scenarios, advantages, config.best, config.worst, keys)
        rows = [rows_of_group(run, chosen, group, sigmas) for group in range(len(scenarios))]
        gradients.append(torch.stack([gradient(run, part) for part in rows]))
    return torch.stack(gradients), scores, valid


def agreed_share(gram_NN: Tensor) -> float:
    """The share above from the groups' inner products."""
    count, squares = len(gram_NN), gram_NN.diag().sum()
    return float((gram_NN.sum() - squares) / (count - 1) / squares)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one of the recipe's settings"
    )
    parser.add_argument("--steps", type=int, default=6, help="steps of groups (default: %(default)s)")
    args = parser.parse_args()
    parts = training_parts(override(replace(demo(), scenarios_per_map=12), args.set), "cpu")
    run = prepare(parts.world, parts.critics, parts.scenarios, parts.config)
    with progress("gradients of groups", args.steps) as advance:
        found = []
        for step in range(1, args.steps + 1):
            found.append(step_gradients(run, step))
            advance(step)
    gradients_RND = torch.cat([g for g, _, _ in found], 1)
    scores, valid = (torch.cat([part[i] for part in found]) for i in (1, 2))
    gram = torch.einsum("rnd,smd->rnsm", gradients_RND, gradients_RND)
    own = own_group(scores, valid)
    names = [critic.name for critic in run.critics]
    for name, deviations in zip(names, own[:, 0].T, strict=True):
        shown = " ".join(
            f"{q:.4f}" for q in deviations.quantile(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])).tolist()
        )
        print(f"{name}: deviation within a group, quantiles 10, 25, 50, 75, 90%: {shown}")
    print(
        f"share of the squared gradient that {len(scores)} groups agree on, by weights of {' and '.join(names)}"
    )
    print(f"{'scale':12}" + "".join(f"{a}:{b}".rjust(8) for a, b in WEIGHTS))
    for scale in SCALES:
        factor_NR = (own / scale(scores, valid).clamp_min(1e-12)).expand(len(scores), 1, -1)[:, 0]
        shares = []
        for weights in WEIGHTS:
            w_RN = (factor_NR * torch.tensor(weights)).T
            shares.append(agreed_share(torch.einsum("rn,rnsm,sm->nm", w_RN, gram, w_RN)))
        print(f"{scale.__name__:12}" + "".join(f"{share:8.3f}" for share in shares))


if __name__ == "__main__":
    main()
