"""Training of a reader from recordings, resumable; and its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from worldcompass.errors import UserError
from worldcompass.rewards.inverse_dynamics.critic import InverseDynamics
from worldcompass.rewards.inverse_dynamics.file import FILE, Facts, load_reader, save_reader
from worldcompass.rewards.inverse_dynamics.footage import Footage, Latents
from worldcompass.rewards.inverse_dynamics.measure import measured, unmeasured, warnings_of
from worldcompass.rewards.inverse_dynamics.network import ControlReader
from worldcompass.rewards.inverse_dynamics.panel import Panel, on_scale
from worldcompass.rewards.inverse_dynamics.pool import Pool, look
from worldcompass.rewards.inverse_dynamics.sight import read_frames, reading_size
from worldcompass.runs.folder import claim
from worldcompass.seeding import generator_for, seed_globals
from worldcompass.statistics import UNKNOWN
from worldcompass.training.optim import adamw
from worldcompass.training.stage import Stage, StageRun
from worldcompass.world import WorldSpec

RECORD, SEEN = "critic.json", "seen.safetensors"
BATCH, VOIDS = 96, 32  # latents of a step, and of what shows nothing
LEARNING_RATE, WARMUP = 2e-3, 30  # of AdamW; steps
REAL = 0.5  # weight of telling pictures of the world from others
GLANCE = 400  # held-out latents of the measures during training


def train_critic(
    spec: WorldSpec,
    learned: Sequence[Footage],
    held_out: Sequence[Footage],
    out: Path,
    minutes: float,
    seed: int = 0,
    steps: int | None = None,
) -> InverseDynamics:
    """Train or resume a reader on the CPU, and write ``inverse_dynamics.safetensors`` to ``out``.

    Args:
        spec: of the world.
        learned: recordings to learn from.
        held_out: recordings to measure it on.
        out: of the state, the curve and the file.
        minutes: of the training, converted into steps at its start; more than before make it longer.
        seed: of weights and draws.
        steps: instead of ``minutes``.

    Raises:
        UserError: when ``out`` holds the training of another critic, or no control can be read.
        Interrupted: after a signal; the state is saved.
    """
    panel, num_frames = Panel.of(spec.actions), len(read_frames(spec.frames_per_latent))
    names = {"trained_on": [one.name for one in learned], "held_out": [one.name for one in held_out]}
    _claim(out, {"panel": panel.to_json(), "fps": spec.fps, "seed": seed, **names})
    unseen = Latents.of(held_out, spec.frames_per_latent)
    pool = look(Latents.of(learned, spec.frames_per_latent), panel, seed, out / SEEN)
    torch.manual_seed(seed)
    net = ControlReader(panel, reading_size(spec.frame_size), num_frames)
    run = StageRun(Stage(FILE.name, minutes, LEARNING_RATE, WARMUP), net, out, "cpu", adamw)
    run.resume()
    run.total = steps or run.total
    facts = Facts(
        panel, spec.fps, spec.frames_per_latent, net.size, unmeasured(panel), 1.0, UNKNOWN, UNKNOWN,
        tuple(names["trained_on"]), tuple(names["held_out"]), seed, 0,
    )  # fmt: skip

    def glance(ema: nn.Module) -> dict[str, float]:
        assert isinstance(ema, ControlReader)
        found = measured(ema.eval(), unseen, facts, GLANCE)
        return {axis.name: round(r.right.mean, 3) for axis, r in zip(panel.axes, found.reads, strict=True)}

    def loss(step: int) -> Tensor:
        seed_globals(seed, FILE.name, step)  # for dropout
        return loss_of(net, pool, generator_for(seed, FILE.name, step))

    ema = run.run(loss, glance)
    assert isinstance(ema, ControlReader)
    return _finished(out, ema, unseen, replace(facts, steps=run.step))


def loss_of(net: ControlReader, pool: Pool, generator: torch.Generator) -> Tensor:
    """Cross-entropy of the controls' values, and of telling pictures of the world from others."""
    seen, ways = pool.batch(BATCH, VOIDS, generator)
    logits, real = net(seen)
    total = torch.zeros(())
    for axis, own in enumerate(logits[: len(ways)].split(net.panel.sizes, -1)):
        wanted = on_scale(net.panel.axes[axis], ways[..., axis])
        total = total - (wanted * own.log_softmax(-1)).sum(-1).mean()
    is_real = torch.cat([torch.ones(len(ways)), torch.zeros(len(real) - len(ways))])
    return total / len(net.panel.axes) + REAL * binary_cross_entropy_with_logits(real, is_real)


def _finished(out: Path, net: ControlReader, unseen: Latents, facts: Facts) -> InverseDynamics:
    """Write the file, and read it back: what is measured is what others will load."""
    path = out / f"{FILE.name}.safetensors"
    save_reader(path, net, facts)
    net, _ = load_reader(path)
    facts = measured(net, unseen, facts)
    if not any(facts.counted):
        path.unlink()
        raise UserError(
            f"no control can be read in the held-out recordings after {facts.steps} steps: {warnings_of(facts)[0]}"
        )
    save_reader(path, net, facts)
    return InverseDynamics(net, facts)


def _claim(out: Path, facts: dict[str, object]) -> None:
    found = claim(out, out / RECORD, facts, "a critic's training")
    if found is not None and found != facts:
        changed = ", ".join(name for name in facts if found.get(name) != facts[name])
        raise UserError(f"{out} holds the training of a critic with other {changed}: choose another --out")
