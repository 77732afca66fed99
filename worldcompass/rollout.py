"""Rollouts: one past with G futures of one chunk, and whole videos as the baseline.

Order of calls for every chunk: ``attend`` -> ``predict_clean`` once per denoising step -> ``decode`` ->
``remember``, the latter two on the attended context. A forward pass is one row through the network. A chunk takes
rows x denoising steps, plus one prefix pass for every past with latents, or none if it is given whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from worldcompass.errors import UnfitInputs
from worldcompass.guidance import Guidance, Siblings, guided, siblings
from worldcompass.noise import Noise, Sampler, stochastic
from worldcompass.parallel.sharding import home_of
from worldcompass.seeding import Key, generator_for
from worldcompass.types import Actions, Group, Scenario
from worldcompass.world import Context, WorldModel


@dataclass(frozen=True)
class Past:
    """The imagined chunks before the chunk to train, for P scenarios."""

    context: Any
    """The world's own Context of P pasts, not attended yet."""
    frames_PF3hw: Tensor
    """uint8; F = 0 without imagined chunks."""
    forward_passes: int
    true: bool = False
    """Whether the chunks are the engine's own, encoded, and not imagined."""


@dataclass(frozen=True)
class Path:
    """Every state of a stochastic rollout of one chunk, from which its steps have a likelihood."""

    states_SBCKHW: Tensor
    """float32 (S + 1, ...): the latents at every level; the last are clean."""
    sigmas: Tensor
    """(S + 1,)."""
    size: float
    """Of the noise, see ``noise.StochasticStep``."""

    def rows(self, index: Tensor) -> Path:
        """The paths of some rows."""
        return replace(self, states_SBCKHW=self.states_SBCKHW[:, index.to(self.states_SBCKHW.device)])


@dataclass(frozen=True)
class Futures:
    """B = len(groups) * G imagined candidates of one chunk; row b belongs to group ``b // G``."""

    groups: tuple[Group, ...]
    clean_BCKHW: Tensor
    """float32: the chunk's latents."""
    actions: Actions
    """(P, K): the chunk's commands, P being the context's pasts."""
    context: Any
    """Attended for this chunk: one past per group, or one per candidate after a whole-video rollout."""
    forward_passes: int
    path: Path | None = None
    """The way of the candidates from noise, after a stochastic rollout."""


@dataclass(frozen=True)
class RolloutRequest:
    """The futures to imagine: scenarios, chunk, number of candidates, and noise."""

    scenarios: Sequence[Scenario]
    """Each makes one group."""
    chunk: int
    """Index of the chunk; earlier chunks are the past."""
    chunk_length: int
    """Latents per chunk."""
    group_size: int
    """G: candidates of one group, on all processes together."""
    keys: tuple[Key, ...]
    """Keys of all noise, such as ``(seed, step)``."""
    sigmas: Tensor
    """Noise levels of every chunk, see ``WorldSpec.sigmas``."""
    explore: float = 0.0
    """Largest guidance weight of a group's candidates, spread evenly from 0; 0 for no guidance."""
    shared_noise: bool = False
    """Start the candidates of a group from the same noise, so that they differ only in guidance."""
    projected: float = 0.0
    """Share of the guided candidates whose guidance has no part along their estimate, see ``guidance.across``."""
    free_noises: int = 0
    """Candidates of a group without guidance and with noise of their own."""
    stochastic: float = 0.0
    """Size of the noise in the steps of the candidates, see ``noise.StochasticStep``; 0 for the world's sampler."""
    temperature: float | None = None
    """At which candidates are imagined, see ``Tempered``; the world's own when None."""
    clip_chunks: int = 1
    """Chunks that critics see of a candidate: this one, and those that follow from it."""
    past_of: PastMaker | None = None
    """Makes the past, such as ``training.curriculum.after_truth``; ``imagine_past`` when None."""
    candidates: range | None = None
    """The candidates of every group for this process; all when None."""

    @property
    def own(self) -> range:
        """The candidates of every group for this process."""
        return self.candidates or range(self.group_size)

    def siblings(self, scenario: Scenario) -> Siblings:
        """How the candidates of a scenario's group differ."""
        keys = (*self.keys, scenario.id, self.chunk, "guidance")
        return siblings(
            self.group_size, self.explore, self.shared_noise, self.projected, self.free_noises, keys
        )

    @property
    def span(self) -> tuple[int, int]:
        """First latent of the chunk, and the one after its last."""
        return self.chunk * self.chunk_length, (self.chunk + 1) * self.chunk_length

    @property
    def judged(self) -> tuple[int, int]:
        """First latent that critics see of a candidate, and the one after their last."""
        return self.span[0], (self.chunk + self.clip_chunks) * self.chunk_length


PastMaker = Callable[[WorldModel[Any], Sequence[Scenario], int, int, Sequence[tuple[Key, ...]], Tensor], Past]
"""``imagine_past`` or another function of its parameters."""
Rollout = Callable[[WorldModel[Any], RolloutRequest], list[Futures]]
"""``imagine_groups`` or ``imagine_whole_videos``."""


def imagine_chunk(
    world: WorldModel[Any],
    context: Context,
    actions: Actions,
    noise: Noise,
    sigmas: Tensor,
    guidance: Guidance | None = None,
) -> Tensor:
    """Denoise B candidates of one chunk; (B, C, K, H, W) float32, the last of ``denoising``."""
    clean = torch.empty(0)
    for state in denoising(world, context, actions, noise, sigmas, guidance):
        clean = state
    return clean


@torch.no_grad()
def denoising(
    world: WorldModel[Any],
    context: Context,
    actions: Actions,
    noise: Noise,
    sigmas: Tensor,
    guidance: Guidance | None = None,
    sampler: Sampler | None = None,
) -> Iterator[Tensor]:
    """The latents of B candidates at every level, the last clean; only those if the chunk is given whole.

    Args:
        context: attended for this chunk; P pasts, P divides B.
        actions: (P, K).
        noise: such as ``chunk_noise``; step 0 determines the number of candidates.
        sigmas: (S + 1,), from at most 1 to 0.
        guidance: of each candidate, see ``guided``; needs a ``Guidable`` world.
        sampler: the world's own when None.
    """
    levels, sampler = sigmas.tolist(), sampler or world.spec.sampler
    noisy = levels[0] * noise(0).float()
    if given_whole(context):
        yield world.predict_clean(noisy, noisy.new_full((len(noisy),), levels[0]), actions, context)
        return
    yield noisy
    weak = None if guidance is None else world.weaken(context)  # type: ignore[attr-defined]
    for step, (sigma, next_sigma) in enumerate(pairwise(levels), 1):
        sigma_B = noisy.new_full((noisy.shape[0],), sigma)
        clean = world.predict_clean(noisy, sigma_B, actions, context)
        if guidance is not None:
            clean = guided(clean, world.predict_clean(noisy, sigma_B, actions, weak), guidance)
        noisy = sampler(noisy, clean, sigma, next_sigma, partial(noise, step))
        if context.given_K is not None:
            noisy = torch.where(context.given_K[:, None, None], clean, noisy)
        yield noisy


@torch.no_grad()
def imagine_past(
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    num_chunks: int,
    chunk_length: int,
    row_keys: Sequence[tuple[Key, ...]],
    sigmas: Tensor,
) -> Past:
    """Imagine chunks 0 .. num_chunks - 1 once per scenario, all scenarios in one batch.

    Args:
        row_keys: one tuple per scenario; the draws for a chunk depend only on it and the chunk's index.
    """
    return go_on(world, world.begin(scenarios), scenarios, range(num_chunks), chunk_length, row_keys, sigmas)


@torch.no_grad()
def go_on(
    world: WorldModel[Any], context: Context, scenarios: Sequence[Scenario], chunks: range, chunk_length: int,
    row_keys: Sequence[tuple[Key, ...]], sigmas: Tensor, temperature: float | None = None,
) -> Past:  # fmt: skip
    """Imagine chunks after a context of one past per scenario; frames and passes are those of these chunks."""
    frames = [torch.empty(len(scenarios), 0, 3, *world.spec.frame_size, dtype=torch.uint8)]
    passes = 0
    for chunk in chunks:
        actions = chunk_actions(world, scenarios, chunk, chunk_length)
        attended = heated(
            world, world.attend(context, actions, past_generators(row_keys, chunk)), temperature
        )
        passes += denoising_passes(attended, len(scenarios), sigmas) + prefix_passes(context)
        noise = chunk_noise(world, chunk_length, [(*keys, chunk) for keys in row_keys])
        clean = imagine_chunk(world, attended, actions, noise, sigmas)
        frames.append(world.decode(clean, attended))
        context = world.remember(attended, clean, actions)
    device = frames[-1].device
    return Past(context, torch.cat([part.to(device) for part in frames], 1), passes)


@torch.no_grad()
def imagine_groups(world: WorldModel[Any], request: RolloutRequest) -> list[Futures]:
    """Clip-level rollout: imagine each scenario's past once, then the futures of the chunk, which share it.

    All scenarios form one batch if the world batches pasts, else each is imagined separately. Noise depends on the
    request's keys, the scenario's id, the chunk and the candidate's number. With ``explore`` candidates differ in
    guidance, which weights can learn. With ``shared_noise`` that is their only difference, so scores do not compare
    noise.

    With ``clip_chunks`` each candidate goes on for some chunks, which critics see too. Their noise is the same
    after every candidate, so that what differs follows from the chunk that is trained.

    Returns:
        One ``Futures`` per batch of scenarios, groups in the order of the scenarios.

    Raises:
        UnfitInputs: when the chunk is given whole.
    """
    chunk, length, keys, sigmas = request.chunk, request.chunk_length, request.keys, request.sigmas
    result = []
    for batch in batches(world, request.scenarios):
        past_keys = [(*keys, "past", s.id) for s in batch]
        past = (request.past_of or imagine_past)(world, batch, chunk, length, past_keys, sigmas)
        actions = chunk_actions(world, batch, chunk, length)
        attended = world.attend(past.context, actions, past_generators(past_keys, chunk))
        attended = heated(world, attended, request.temperature)
        refuse_given(world, attended, request)
        plans = [request.siblings(scenario) for scenario in batch]
        row_keys = [
            (*keys, "future", s.id, chunk, plan.noise_G[g])
            for s, plan in zip(batch, plans, strict=True)
            for g in request.own
        ]
        noise = chunk_noise(world, length, row_keys)
        guidance = spread_guidance(world, request, batch)
        path = None
        if request.stochastic:
            sampler = stochastic(request.stochastic)
            states = torch.stack([*denoising(world, attended, actions, noise, sigmas, guidance, sampler)])
            path, clean = Path(states, sigmas, request.stochastic), states[-1]
        else:
            clean = imagine_chunk(world, attended, actions, noise, sigmas, guidance)
        frames_PGF3hw = world.decode(clean, attended).unflatten(0, (len(batch), len(request.own)))
        after = list(what_follows(world, request, batch, attended, clean, actions))
        if after:
            after_PGF3hw = torch.stack([part.frames_PF3hw.to(frames_PGF3hw.device) for part in after], 1)
            frames_PGF3hw = torch.cat([frames_PGF3hw, after_PGF3hw], 2)
        passes = past.forward_passes + prefix_passes(past.context) + sum(p.forward_passes for p in after)
        passes += denoising_passes(attended, len(clean), sigmas, request.explore)
        weight_PG = None if guidance is None else guidance.weight_B.unflatten(0, (len(batch), -1))
        groups = tuple(
            replace(
                make_group(world, scenario, frames_PGF3hw[p], past.frames_PF3hw[p], *request.judged),
                guidance_G=None if weight_PG is None else weight_PG[p],
                true_past=past.true,
            )
            for p, scenario in enumerate(batch)
        )
        result.append(Futures(groups, clean, actions, attended, passes, path))
    return result


def what_follows(
    world: WorldModel[Any], request: RolloutRequest, scenarios: Sequence[Scenario], attended: Context,
    clean_BCKHW: Tensor, actions: Actions,
) -> Iterator[Past]:  # fmt: skip
    """The chunks of a clip after the trained one, of each candidate in turn; nothing for clips of one chunk."""
    if request.clip_chunks == 1:
        return
    chunks = range(request.chunk + 1, request.chunk + request.clip_chunks)
    row_keys = [(*request.keys, "after", scenario.id) for scenario in scenarios]
    for clean_PCKHW in clean_BCKHW.unflatten(0, (len(scenarios), -1)).unbind(1):
        context = world.remember(attended, clean_PCKHW, actions)
        yield go_on(world, context, scenarios, chunks, request.chunk_length, row_keys, request.sigmas)


@torch.no_grad()
def imagine_whole_videos(world: WorldModel[Any], request: RolloutRequest) -> list[Futures]:
    """The baseline: imagine a separate video for every candidate, chunks 0 to the request's.

    Critics score each whole video once, as a group without past frames and with all commands. The update gets the
    latents of the last chunk, each row with its own past. ``explore`` guides only that chunk, and with
    ``shared_noise`` all candidates have the same past.

    Raises:
        ValueError: when the world cannot hold several pasts in one call.
        UnfitInputs: when the last chunk is given whole.
    """
    if not world.spec.batches_pasts:
        raise ValueError(f"whole-video rollout needs a world that batches pasts; {world.spec.name} does not")
    chunk, length, keys, sigmas = request.chunk, request.chunk_length, request.keys, request.sigmas
    scenarios = request.scenarios
    rows = [scenario for scenario in scenarios for _ in request.own]
    row_keys = [
        (*keys, "video", s.id, request.siblings(s).noise_G[g]) for s in scenarios for g in request.own
    ]
    past = go_on(world, world.begin(rows), rows, range(chunk), length, row_keys, sigmas, request.temperature)
    actions = chunk_actions(world, rows, chunk, length)
    attended = world.attend(past.context, actions, past_generators(row_keys, chunk))
    attended = heated(world, attended, request.temperature)
    refuse_given(world, attended, request)
    noise = chunk_noise(world, length, [(*row, chunk) for row in row_keys])
    guidance = spread_guidance(world, request, scenarios)
    clean = imagine_chunk(world, attended, actions, noise, sigmas, guidance)
    passes = past.forward_passes + prefix_passes(past.context)
    passes += denoising_passes(attended, len(clean), sigmas, request.explore)
    decoded = world.decode(clean, attended)
    video_NGF3hw = torch.cat([past.frames_PF3hw.to(decoded.device), decoded], 1)
    video_NGF3hw = video_NGF3hw.unflatten(0, (len(scenarios), len(request.own)))
    groups = tuple(
        make_group(world, scenario, frames, frames[0, :0], 0, request.span[1])
        for scenario, frames in zip(scenarios, video_NGF3hw, strict=True)
    )
    return [Futures(groups, clean, actions, attended, passes)]


@torch.no_grad()
def imagine_video(
    world: WorldModel[Any],
    scenarios: Sequence[Scenario],
    keys: tuple[Key, ...] = (0,),
    chunk_length: int | None = None,
    num_steps: int | None = None,
) -> Tensor:
    """One video per scenario along its whole trajectory; uint8 (P, F, 3, h, w).

    The last action is held to fill the last chunk, and the video is trimmed. Noise depends on ``keys``, the
    scenario's id and the chunk's index, but not on the other scenarios of the batch.

    Args:
        scenarios: of one length.
        keys: of the noise, such as ``(seed,)``.
        chunk_length: latents per chunk; the world's default when None.
        num_steps: denoising steps; the world's default when None.
    """
    length = chunk_length or world.spec.chunk_lengths[0]
    num_latents = len(scenarios[0].actions)
    num_chunks = -(-num_latents // length)
    sigmas = world.spec.sigmas(num_steps)
    missing = num_chunks * length - num_latents
    filled = [
        replace(s, actions=world.spec.actions.hold_last(s.actions, missing)) if missing else s
        for s in scenarios
    ]
    pasts = [
        imagine_past(world, batch, num_chunks, length, [(*keys, s.id) for s in batch], sigmas)
        for batch in batches(world, filled)
    ]
    return torch.cat([past.frames_PF3hw for past in pasts])[:, : world.spec.num_frames(0, num_latents)]


def spread_guidance(
    world: WorldModel[Any], request: RolloutRequest, scenarios: Sequence[Scenario]
) -> Guidance | None:
    """Guidance of this process's candidates, groups in the order of the scenarios; None without exploration."""
    if not request.explore:
        return None
    own, home = list(request.own), device_of(world)
    plans = [request.siblings(scenario) for scenario in scenarios]
    projected = torch.cat([plan.projected_G[own] for plan in plans]).to(home) if request.projected else None
    return Guidance(torch.cat([plan.weight_G[own] for plan in plans]).to(home), projected)


def given_whole(context: Context) -> bool:
    """Whether every latent of the attended chunk is given, so that nothing is imagined."""
    return context.given_K is not None and bool(context.given_K.all())


def refuse_given(world: WorldModel[Any], context: Context, request: RolloutRequest) -> None:
    """Refuse a chunk that is given whole, as all its futures would be equal.

    Raises:
        UnfitInputs: when every latent of the chunk is given.
    """
    if given_whole(context):
        raise UnfitInputs(
            f"chunk {request.chunk} is given whole to {world.spec.name}, so there are no futures to compare: start"
            f" later, such as with first_chunk={request.chunk + 1}, or use longer chunks"
        )


def past_generators(past_keys: Sequence[tuple[Key, ...]], chunk: int) -> list[torch.Generator]:
    """The generators of ``attend`` for a chunk, one per past."""
    return [generator_for(*keys, chunk, "attend") for keys in past_keys]


def denoising_passes(attended: Context, rows: int, sigmas: Tensor, explore: float = 0.0) -> int:
    """Forward passes to denoise the rows of a chunk: two per step with guidance, none if it is given whole."""
    per_step = 2 if explore else 1
    return 0 if given_whole(attended) else per_step * rows * (len(sigmas) - 1)


def heated(world: WorldModel[Any], attended: Context, temperature: float | None) -> Context:
    """The attended context at a temperature of a ``Tempered`` world; as it is when None."""
    return attended if temperature is None else world.heated(attended, temperature)  # type: ignore[attr-defined]


def prefix_passes(context: Context) -> int:
    """Forward passes to attend a context: one per past, none without latents."""
    return context.num_pasts if context.num_latents else 0


def batches(
    world: WorldModel[Any], scenarios: Sequence[Scenario], most: int | None = None
) -> list[Sequence[Scenario]]:
    """Batches of at most ``most`` scenarios, all when None; one by one if the world cannot batch pasts."""
    size = (most or len(scenarios)) if world.spec.batches_pasts else 1
    return [scenarios[start : start + size] for start in range(0, len(scenarios), size)]


def device_of(world: WorldModel[Any]) -> torch.device:
    """The device of the world's network."""
    return home_of(next(world.net.parameters()))


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; a CPU without them may be a hundred times slower."""
    if device.type != "cpu":
        return True
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return not known or any(there for name, there in known.items() if "bf16" in name)


def chunk_noise(world: WorldModel[Any], chunk_length: int, row_keys: Sequence[tuple[Key, ...]]) -> Noise:
    """Noise of a chunk on the world's device, one row per key; it depends only on the key and the step."""
    channels, height, width = world.spec.latent_shape
    shape = (channels, chunk_length, height, width)

    def draw(step: int) -> Tensor:
        keys = [(*own, "fresh", step) if step else own for own in row_keys]
        rows = [torch.randn(shape, generator=generator_for(*own)) for own in keys]
        return torch.stack(rows).to(device_of(world))

    return draw


def chunk_actions(
    world: WorldModel[Any], scenarios: Sequence[Scenario], chunk: int, chunk_length: int
) -> Actions:
    """Commands of one chunk, (P, K), on the world's device.

    Raises:
        ValueError: when a scenario is too short.
    """
    start, stop = chunk * chunk_length, (chunk + 1) * chunk_length
    for scenario in scenarios:
        if len(scenario.actions) < stop:
            raise ValueError(
                f"scenario {scenario.id} has {len(scenario.actions)} latents, chunk {chunk} needs {stop}"
            )
    return Actions.stack([s.actions.latents(start, stop) for s in scenarios]).to(device_of(world))


def make_group(
    world: WorldModel[Any], scenario: Scenario, frames_GF3hw: Tensor, past_F3hw: Tensor, start: int, stop: int
) -> Group:
    """A group of the latents ``start <= i < stop``, with the engine's continuation if known."""
    first = past_F3hw[0] if past_F3hw.shape[0] else frames_GF3hw[0, 0]
    actions = scenario.actions.latents(start, stop).to(frames_GF3hw.device)
    truth, spec = scenario.truth, world.spec
    if truth is not None:
        truth = truth.part(slice(spec.num_frames(0, start), spec.num_frames(0, stop)), start, stop)
    past = scenario.actions.latents(0, start).to(frames_GF3hw.device)
    return Group(
        frames_GF3hw, past_F3hw, first, actions, spec.frames_per_latent,
        scenario.caption, truth, past, scenario.instruction,
    )  # fmt: skip
