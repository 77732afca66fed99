"""Which optimiser's step goes where obedience is: of the Hands base, by the cosine with the gradient of obedience.

The update sees rewards of imagined candidates. The gradient of obedience sees by how much the gripper's own numbers
miss the commands, which post-training can't know. Rows of noise alone are compared with rows at the second level.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from worldcompass.rollout import imagine_chunk
from worldcompass.training.optim import orthogonalise
from worldcompass.types import Actions, Scenario
from worldcompass.worlds.hands.facts import NOMINAL
from worldcompass.worlds.hands.footage import shipped_scenarios
from worldcompass.worlds.hands.rewards.interaction import kernel
from worldcompass.worlds.hands.world import HandsWorld, load_hands_world

LATENTS = 4  # of the first chunk, whose first one is the start image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=18, help="training scenarios, one group each")
    parser.add_argument("--candidates", type=int, default=16, help="of a group")
    args = parser.parse_args()
    world = load_hands_world()
    parameters = [p for p in world.net.parameters() if p.requires_grad]
    scenarios = shipped_scenarios("training", 24)
    obey, updates = [torch.zeros_like(p) for p in parameters], {}
    for number, scenario in enumerate(scenarios[:: max(1, len(scenarios) // args.groups)][: args.groups]):
        for name, found in gradients(world, parameters, scenario, args.candidates, number).items():
            total = (
                obey
                if name == "obey"
                else updates.setdefault(name, [torch.zeros_like(p) for p in parameters])
            )
            for whole, part in zip(total, found, strict=True):
                whole += part
    first, second = updates.values()
    rows = {
        "gradient, rows of noise alone": first,
        "gradient, rows at the second level": second,
        "signs of the first, as Adam's first step": [g.sign() for g in first],
        "the first orthogonalised, as Muon's step": [_orthogonal(g) for g in first],
    }
    for name, step in rows.items():
        print(f"{name:44}{cosine(step, obey):7.2f}")


def gradients(
    world: HandsWorld, parameters: Sequence[Tensor], scenario: Scenario, candidates: int, seed: int
) -> dict[str, list[Tensor]]:
    """``obey``, and of the update by noise level, of one group."""
    assert scenario.truth is not None
    group = [scenario] * candidates
    actions = Actions.stack([one.actions for one in group]).latents(0, LATENTS)
    wanted = scenario.truth.actions.latents(0, LATENTS).controls.flat_KA[1:]
    generator = torch.Generator().manual_seed(seed)
    shape = (candidates, world.spec.latent_shape[0], LATENTS, *world.spec.latent_shape[1:])
    noise = torch.randn(shape, generator=generator)
    levels = [float(level) for level in world.spec.sigmas()[:2]]
    with torch.no_grad():
        context = world.heated(world.attend(world.begin(group), actions), 1.0)
        clean = imagine_chunk(world, context, actions, lambda step: noise, world.spec.sigmas())
    hits = kernel(steps(world, clean) - wanted, torch.zeros(()))
    rewards = (hits[..., :2].prod(-1) + hits[..., 2:].prod(-1)).mean(-1) / 2
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    found = {}
    for level in levels:
        noisy = (1 - level) * clean + level * torch.randn(shape, generator=generator)
        noisy[:, :, 0] = clean[:, :, 0]
        guess = world.predict_clean(noisy, torch.full((candidates,), level), actions, context)
        error = (guess - clean)[:, :, 1:]
        size = error.detach().abs().mean((1, 2, 3, 4))
        loss = (advantages * error.square().mean((1, 2, 3, 4)) / size).sum()
        if level == levels[0]:
            missed = (steps(world, guess) - wanted).square().mean()
            found["obey"] = _grad(missed, parameters)
        found[f"{level:g}"] = _grad(loss, parameters)
    return found


def steps(world: HandsWorld, clean_BCKHW: Tensor) -> Tensor:
    """How far the gripper goes in each latent by the latents' own numbers, in steps; (B, K - 1, 4)."""
    looks = [world.autoencoder.look(clean_BCKHW[:, :, latent]) for latent in range(LATENTS)]
    return torch.stack([look.state.grip_4 for look in looks], 1).diff(dim=1) / torch.tensor(NOMINAL).float()


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Of all parameters together."""
    one, two = (torch.cat([x.flatten() for x in part]) for part in (a, b))
    return float(one @ two / (one.norm() * two.norm()))


def _orthogonal(gradient: Tensor) -> Tensor:
    if gradient.ndim < 2:
        return gradient.sign()
    matrix = gradient.flatten(1)
    return (orthogonalise(matrix[None])[0] * 0.2 * max(gradient.shape[:2]) ** 0.5).view_as(gradient)


def _grad(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    return list(
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    )


if __name__ == "__main__":
    main()
