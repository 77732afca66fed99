"""Flow matching with teacher forcing: what the world model is taught on one batch of sequences.

Each chunk of a sequence appears clean, as a past, and in noisy copies to be predicted; clean and noisy rows see the
clean chunks before theirs and themselves, so one pass trains every chunk with its true past.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from worldcompass.noise import ShiftedLevels
from worldcompass.types import Actions
from worldcompass.worlds.small.pretraining.blueprint import Blueprint, Teaching
from worldcompass.worlds.small.pretraining.sequences import Batch
from worldcompass.worlds.small.transformer import Attend, Command, Rotary
from worldcompass.worlds.small.world import SmallWorld

NOISED_SHARE = 0.5  # of exact pasts that get noise
IMAGINED_STEPS = 2  # denoising steps of a past that the network imagines
LEAST_LEVEL = 1e-6  # a noise level that counts as one


@dataclass(frozen=True)
class Layout:
    """Which rows one pass holds: for every chunk in turn its clean version, then its noisy copies."""

    rows: tuple[tuple[int, int], ...]
    """(chunk, version) of each row; version 0 is clean, the others are copies."""

    @staticmethod
    def of(chunks: int, first_predicted: int, copies: int) -> Layout:
        """Nothing sees the last chunk's clean version; chunks before ``first_predicted`` are only a past."""
        rows = []
        for chunk in range(chunks):
            versions = range(0 if chunk < chunks - 1 else 1, copies + 1 if chunk >= first_predicted else 1)
            rows += [(chunk, version) for version in versions]
        return Layout(tuple(rows))

    def gather(self, versions: list[Tensor], axis: int, length: int) -> Tensor:
        """The rows, below one another: of each version's tensor the part of its chunk along ``axis``."""
        parts = [versions[v].narrow(axis, c * length, length) for c, v in self.rows]
        return torch.cat(parts)

    def repeat(self, tensor: Tensor, axis: int, length: int) -> Tensor:
        """The rows of a tensor that all versions share."""
        return torch.cat([tensor.narrow(axis, c * length, length) for c, _ in self.rows])

    def noisy(self, sequences: int) -> Tensor:
        """bool (rows * sequences,): which rows are noisy copies."""
        return torch.tensor([version > 0 for _, version in self.rows]).repeat_interleave(sequences)

    def attend(self, sequences: int) -> Attend:
        """Every row sees the clean chunks before its own, and itself."""

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            clean: list[tuple[Tensor, Tensor]] = []  # of the chunks so far, in order
            out = []
            rows = zip(self.rows, q.split(sequences), k.split(sequences), v.split(sequences), strict=True)
            for (chunk, version), own_q, own_k, own_v in rows:
                past = clean[:chunk]
                keys = torch.cat([*(k for k, _ in past), own_k], 2)
                values = torch.cat([*(v for _, v in past), own_v], 2)
                out.append(scaled_dot_product_attention(own_q, keys, values))
                if version == 0:
                    clean.append((own_k, own_v))
            return torch.cat(out)

        return attend


@dataclass(frozen=True)
class Told:
    """What the network is told of all latents of a batch, and the finished latents that this follows from."""

    actions: Actions
    """(B, M)."""
    command: Command
    before_BCNHW: Tensor
    """The last finished latent before each of N chunks."""
    seen_BDMyx: Tensor
    """The world's views."""
    chunk: int
    """Latents of a chunk."""

    @staticmethod
    def of(
        blueprint: Blueprint[Any],
        world: SmallWorld[Any],
        batch: Batch,
        past_BCMHW: Tensor,
        entry_BC2HW: Tensor,
        chunk: int,
    ) -> Told:
        """What follows from a past and its entries."""
        device = past_BCMHW.device
        actions, last = batch.actions.to(device), last_actions(world, batch).to(device)
        before = _before(past_BCMHW, entry_BC2HW, world.spec.chunk_lengths[0], chunk)
        start = None
        if blueprint.teaching.shows_start and not batch.starts:
            start = batch.start_BCHW[:, :, None].to(device), batch.start.to(device)
        seen = views_of(world, before, past_BCMHW, actions, last, batch.starts, start)
        return Told(actions, commands_of(world, actions, last, chunk), before, seen, chunk)

    def velocity(
        self, world: SmallWorld[Any], layout: Layout, latents: list[Tensor], sigmas: list[Tensor]
    ) -> Tensor:
        """Velocity (rows, C, chunk, H, W) of the noisy rows.

        Args:
            world: whose network it is.
            layout: of the rows.
            latents: (B, C, M, H, W) of each version.
            sigmas: their noise levels, (B, M).
        """
        chunk, sequences = self.chunk, len(self.before_BCNHW)
        velocity, _ = world.net(
            layout.gather(latents, 2, chunk), layout.gather(sigmas, 1, chunk),
            tuple(layout.repeat(x, 1, chunk) for x in self.command),
            layout.repeat(self.before_BCNHW, 2, 1)[:, :, 0], layout.repeat(self.seen_BDMyx, 2, chunk),
            rotary=rotary_of_rows(world, self.actions, layout, chunk), attend=layout.attend(sequences),
            asked_B=layout.noisy(sequences).to(world.device),
        )  # fmt: skip
        return velocity.float()


def world_loss(
    blueprint: Blueprint[Any], world: SmallWorld[Any], batch: Batch, chunk: int, generator: torch.Generator
) -> Tensor:
    """Mean squared velocity error over all predicted latents, in chunks of ``chunk`` latents.

    See ``Codec.channel_weights``, and ``Teaching.level_floor`` for errors at low noise levels.

    Args:
        blueprint: of the world.
        world: with the network that learns.
        batch: see ``draw_batch``.
        chunk: latents of a chunk.
        generator: of the world's device.
    """
    teaching, device, whole = blueprint.teaching, world.device, world.spec.chunk_lengths[0]
    clean, past, entry = _moved(batch, device)
    sequences, _, length = clean.shape[:3]
    if batch.worn:
        past_sigma = _declared(sequences, length, batch.starts, world.memory.sigma).to(device)
    else:
        past, past_sigma, entry = _noisy_past(
            past, entry, whole, batch.starts, teaching.past_noise, generator
        )
    latents, sigmas, targets = [past], [past_sigma], [past]
    for _ in range(teaching.copies):
        sigma = noise_levels(teaching, world, sequences, length, chunk, generator)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        if batch.starts:
            sigma[:, 0] = 0
        expanded = sigma[:, None, :, None, None]
        latents.append((1 - expanded) * clean + expanded * noise)
        targets.append(noise - clean)
        sigmas.append(sigma)
    layout = Layout.of(length // chunk, 0 if batch.starts else whole // chunk, teaching.copies)
    told = Told.of(blueprint, world, batch, past, entry, chunk)
    velocity, noisy = told.velocity(world, layout, latents, sigmas), layout.noisy(sequences).to(device)
    weight = world.autoencoder.channel_weights[:, None, None, None]
    target, level = layout.gather(targets, 2, chunk)[noisy], layout.gather(sigmas, 1, chunk)[noisy]
    error = ((velocity - target).square() * weight).mean(dim=(1, 3, 4))
    counted = level > 0
    share = level / level.clamp_min(max(teaching.level_floor, LEAST_LEVEL))
    loss = (error * share.square() * counted).sum() / counted.sum()
    if blueprint.misplaced is None:
        return loss
    true = layout.gather([clean] * len(latents), 2, chunk)[noisy]
    guessed = true - level[:, None, :, None, None] * (velocity - target)
    pair = (x.transpose(1, 2).flatten(0, 1)[counted.flatten()] for x in (guessed, true))
    return loss + blueprint.misplaced(world.autoencoder, *pair)


@torch.no_grad()
def imagine_past(
    blueprint: Blueprint[Any], world: SmallWorld[Any], batch: Batch, chunk: int, generator: torch.Generator
) -> Batch:
    """The same with a past that the network imagines itself, each chunk after that of the batch, in a few steps.

    So the network learns to go on from what it makes: its own errors do not pile up. Done twice, a chunk follows
    one that followed an imagined one.
    """
    whole, device = world.spec.chunk_lengths[0], world.device
    clean, past, entry = _moved(batch, device)
    sequences, _, length = clean.shape[:3]
    first = 0 if batch.starts else whole
    told = Told.of(blueprint, world, batch, past, entry, chunk)
    layout = Layout.of(length // chunk, first // chunk, 1)
    known = _declared(sequences, length, batch.starts, world.memory.sigma if batch.worn else 0.0).to(device)
    schedule = world.spec.schedule
    levels = schedule.sigmas(IMAGINED_STEPS if isinstance(schedule, ShiftedLevels) else None).tolist()
    x = torch.randn(clean.shape, generator=generator, device=device)
    for level, after in pairwise(levels):
        sigma = torch.full_like(known, level)
        if batch.starts:
            x[:, :, 0], sigma[:, 0] = clean[:, :, 0], 0
        velocity = told.velocity(world, layout, [past, x], [known, sigma])
        x[:, :, first:] += (after - level) * torch.cat(velocity.split(sequences), 2)
    x[:, :, :first] = clean[:, :, :first]
    entry = entry.clone()
    if batch.starts:
        x[:, :, 0] = clean[:, :, 0]
        entry[:, :, 1] = x[:, :, whole - 1]
    return replace(batch, past_BMCHW=x.transpose(1, 2), entry_B2CHW=entry.transpose(1, 2), worn=True)


def _moved(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences, pasts and entries of a batch on the device, (B, C, ..., H, W)."""
    parts = (batch.clean_BMCHW, batch.past_BMCHW, batch.entry_B2CHW)
    clean, past, entry = (x.transpose(1, 2).to(device) for x in parts)
    return clean, past, entry


def _declared(sequences: int, length: int, starts: bool, sigma: float) -> Tensor:
    """The noise levels that a world gives its own finished latents, (B, M)."""
    sigma_BM = torch.full((sequences, length), sigma)
    if starts:
        sigma_BM[:, 0] = 0
    return sigma_BM


def _noisy_past(
    clean_BCMHW: Tensor,
    entry_BC2HW: Tensor,
    whole: int,
    starts: bool,
    largest: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """The past that chunks are predicted from, with its noise level per latent, and its entries, noised alike."""
    sequences, _, length = clean_BCMHW.shape[:3]
    device = clean_BCMHW.device
    some = torch.rand(sequences, generator=generator, device=device) < NOISED_SHARE
    sigma = largest * torch.rand(sequences, generator=generator, device=device) * some
    level = sigma.view(-1, 1, 1, 1, 1)
    past, entry = (
        (1 - level) * x + level * torch.randn(x.shape, generator=generator, device=device)
        for x in (clean_BCMHW, entry_BC2HW)
    )
    sigma_BM = sigma[:, None].repeat(1, length)
    if starts:  # the start image is given exactly
        past[:, :, 0] = entry[:, :, 0] = clean_BCMHW[:, :, 0]
        sigma_BM[:, 0] = 0
        entry[:, :, 1] = past[:, :, whole - 1]
    return past, sigma_BM, entry


def rotary_of_rows(world: SmallWorld[Any], actions: Actions, layout: Layout, chunk: int) -> Rotary:
    """The rotary embedding of all rows of sequences with actions (B, M); time counts the sequence's latents."""
    positions = torch.arange(len(actions), device=world.device).float()
    rotary = world.rotary(positions.expand_as(actions.commanded_K), actions)
    cos, sin = (layout.repeat(x, 2, chunk * world.net.config.tokens) for x in rotary)
    return cos, sin


def noise_levels(
    teaching: Teaching,
    world: SmallWorld[Any],
    sequences: int,
    length: int,
    chunk: int,
    generator: torch.Generator,
) -> Tensor:
    """One level per chunk, (B, M): logit-normal with the world's shift, some fine ones, some noise alone."""
    shape, device = (sequences, length // chunk), generator.device
    schedule = world.spec.schedule
    shift = schedule.shift if isinstance(schedule, ShiftedLevels) else 1.0
    u = torch.sigmoid(torch.randn(shape, generator=generator, device=device))
    usual = shift * u / (1 + (shift - 1) * u)
    low, high = teaching.fine_levels
    fine = low + (high - low) * torch.rand(shape, generator=generator, device=device)
    chosen = torch.rand(shape, generator=generator, device=device) < teaching.fine_share
    levels = torch.where(chosen, fine, usual)
    if teaching.whole_share:
        whole = torch.rand(shape, generator=generator, device=device) < teaching.whole_share
        levels = torch.where(whole, 1.0, levels)
    return levels.repeat_interleave(chunk, 1)


def _joined(first: tuple[Tensor, Actions], then: tuple[Tensor, Actions]) -> tuple[Tensor, Actions]:
    return torch.cat([first[0], then[0]], 2), Actions.join([first[1], then[1]])


def _before(past_BCMHW: Tensor, entry_BC2HW: Tensor, whole: int, chunk: int) -> Tensor:
    """The last finished latent before each chunk, as the episode had it; (B, C, chunks, H, W)."""
    previous = torch.cat([entry_BC2HW[:, :, :1], past_BCMHW[:, :, :-1]], 2)
    previous[:, :, whole] = entry_BC2HW[:, :, 1]  # a memory stretch is not what came right before
    return previous[:, :, ::chunk]


def last_actions(world: SmallWorld[Any], batch: Batch) -> Actions:
    """The action of the latent before each one in its episode, (B, M)."""
    actions, entry, whole = batch.actions, batch.entry, world.spec.chunk_lengths[0]
    return Actions.join(
        [
            entry.latents(0, 1), actions.latents(0, whole - 1),
            entry.latents(1, 2), actions.latents(whole, len(actions) - 1),
        ]
    )  # fmt: skip


def commands_of(world: SmallWorld[Any], actions: Actions, last: Actions, chunk: int) -> Command:
    """What the network is told of each chunk's actions; (B, M, ...) each."""
    parts = [
        world.command(last.latents(begin, begin + 1), actions.latents(begin, begin + chunk))
        for begin in range(0, len(actions), chunk)
    ]
    return tuple(torch.cat(part, 1) for part in zip(*parts, strict=True))


def views_of(
    world: SmallWorld[Any],
    before_BCNHW: Tensor,
    past_BCMHW: Tensor,
    actions: Actions,
    last: Actions,
    starts: bool,
    start: tuple[Tensor, Actions] | None = None,
) -> Tensor:
    """The world's views of each of N chunks, after the latent before it and an older past; (B, D, M, y, x).

    Args:
        world: whose ``views`` they are.
        before_BCNHW: the last finished latent before each chunk.
        past_BCMHW: the sequences as later chunks see them.
        actions: of them.
        last: of the latent before each one.
        starts: whether the sequences begin with a start image.
        start: a latent (B, C, 1, H, W) with its action, the oldest of every past, from before the sequences.
    """
    whole, length = world.spec.chunk_lengths[0], len(actions)
    chunk = length // before_BCNHW.shape[2]
    looks = world.autoencoder.look(before_BCNHW.transpose(1, 2).flatten(0, 1))
    looks = looks.unflatten((len(past_BCMHW), -1))
    seen = []
    for index, begin in enumerate(range(0, length, chunk)):
        # The latent right before is the last one of the past, except after a memory stretch.
        end = begin if begin == whole and not starts else begin - 1
        older = (past_BCMHW[:, :, :end], actions.latents(0, end)) if end > 0 else None
        if start is not None:
            older = start if older is None else _joined(start, older)
        look = looks.each(lambda x, index=index: x[:, index])
        part = actions.latents(begin, begin + chunk)
        seen.append(world.views(look, last.latents(begin, begin + 1), older, part))
    return torch.cat(seen, 2)
