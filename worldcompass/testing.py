"""Executable contracts, and a toy world on which the whole loop runs in seconds.

``check_world_model`` and ``check_critic`` are what an adapter's or a critic's own tests call. Every message
says what was expected, what came, and what to change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from worldcompass.critic import Critic
from worldcompass.geometry import LabelThresholds, Motion, commanded, motion_signs
from worldcompass.rollout import chunk_actions, chunk_noise, device_of, generator_for
from worldcompass.types import Actions, Group, Scenario, Scores
from worldcompass.world import WorldModel, WorldSpec

TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
}  # largest difference relative to max(1, largest value)


class ContractError(AssertionError):
    """A world model or critic breaks its contract."""


def check_world_model(
    world: WorldModel[Any], scenarios: Sequence[Scenario], tolerance: float | None = None
) -> None:
    """Check an adapter against the whole contract, with two scenarios of two chunks.

    Args:
        scenarios: at least two, each at least two default chunks long, with different actions in chunk 1.
        tolerance: largest difference between equivalent calls, relative to max(1, largest value); by default
            1e-5 when the parameters are float32 and 2e-2 otherwise.

    Raises:
        ContractError: at the first broken rule.
    """
    _expect(len(scenarios) >= 2, "scenarios", "at least 2", len(scenarios), "pass two scenarios")
    dtypes = {p.dtype for p in world.net.parameters()}
    tolerance = tolerance or TOLERANCE[torch.float32 if dtypes == {torch.float32} else torch.bfloat16]
    _check_spec(world.spec)
    for length in world.spec.chunk_lengths:
        probe = _Probe(world, scenarios[:1], length, tolerance)
        _check_start(probe)
        _check_batch(probe)
        _check_memory(probe)
        _check_decoder(probe)
    probe = _Probe(world, scenarios[:1], world.spec.chunk_lengths[0], tolerance)
    _check_sensitivity(probe)
    _check_gradients(probe)
    if world.spec.batches_pasts:
        _check_pasts(world, scenarios[:2], tolerance)


def check_critic(critic: Critic, group: Group | None = None) -> None:
    """Check a critic against its contract on ``group``, or on three candidates of coloured noise.

    Raises:
        ContractError: at the first broken rule.
    """
    group = group or noise_group()
    size = group.frames_GF3hw.shape[0]
    _expect(
        bool(critic.name) and isinstance(critic.name, str), "name", "a word", critic.name, "name the critic"
    )
    before = group.frames_GF3hw.clone(), group.past_frames_F3hw.clone()
    scores = critic(group)
    untouched = torch.equal(before[0], group.frames_GF3hw) and torch.equal(before[1], group.past_frames_F3hw)
    _expect(untouched, "a call", "the group left as it was", "changed frames", "copy before writing")
    values, valid = scores.values_G, scores.valid_G
    _expect(values.shape == (size,), "values_G", f"shape ({size},)", values.shape, "one score per candidate")
    _expect(values.dtype == torch.float32, "values_G", "float32", values.dtype, "call .float()")
    _expect(
        valid.shape == (size,) and valid.dtype == torch.bool, "valid_G", f"bool ({size},)", valid, "a mask"
    )
    _expect(
        bool(values.isfinite().all()), "values_G", "finite", values, "abstain with valid_G = False and a 0"
    )
    again = critic(group).values_G
    _expect(torch.equal(values, again), "a second call", values, again, "use no global randomness")
    flipped = dataclasses.replace(group, frames_GF3hw=group.frames_GF3hw.flip(0))
    mirrored = critic(flipped).values_G.flip(0)
    close = torch.allclose(mirrored, values, rtol=1e-4, atol=1e-5)
    _expect(close, "reordered candidates", values, mirrored, "score each candidate by itself")
    alone = critic(dataclasses.replace(group, frames_GF3hw=group.frames_GF3hw[:1]))
    close = alone.values_G.shape == (1,) and torch.allclose(alone.values_G, values[:1], rtol=1e-4, atol=1e-5)
    _expect(close or not alone.valid_G.any(), "one alone", values[:1], alone, "abstain, if you must compare")


def noise_group(size: int = 3, height: int = 48, width: int = 64) -> Group:
    """A group of noise for smoke tests: 4 latents of 4 frames after 5 past frames, walking forward."""
    generator = generator_for("noise group")

    def frames(*shape: int) -> Tensor:
        return torch.randint(0, 256, (*shape, 3, height, width), generator=generator, dtype=torch.uint8)

    past = frames(5)
    motion = Motion(move=1.0, yaw_deg=5.0, pitch_deg=5.0, level=True)
    actions = commanded(torch.full((4,), 9), motion, torch.tensor([0.8, 1.0, 0.5, 0.5]))
    return Group(frames(size, 16), past, past[0], actions, frames_per_latent=4)


@dataclass(frozen=True)
class _Probe:
    """One scenario of a world, at one chunk length, and the calls that the checks repeat."""

    world: WorldModel[Any]
    scenarios: Sequence[Scenario]
    length: int
    tolerance: float

    def actions(self, chunk: int) -> Actions:
        return chunk_actions(self.world, self.scenarios, chunk, self.length)

    def noise(self, rows: int) -> Tensor:
        return chunk_noise(self.world, self.length, [("check", row) for row in range(rows)])

    def second_chunk(self) -> Any:
        """A context with one remembered chunk of mild noise, attended for the next."""
        context = self.world.begin(self.scenarios)
        actions = self.actions(0)
        attended = self.world.attend(context, actions)
        noise = self.noise(len(self.scenarios))
        with torch.no_grad():
            clean = self.world.predict_clean(noise, noise.new_ones(len(noise)), actions, attended)
        return self.world.attend(self.world.remember(attended, clean, actions), self.actions(1))

    @torch.no_grad()
    def predict(self, context: Any, chunk: int, noisy: Tensor, sigma: float = 0.7) -> Tensor:
        return self.world.predict_clean(
            noisy, noisy.new_full((len(noisy),), sigma), self.actions(chunk), context
        )

    def same(self, a: Tensor, b: Tensor, what: str, change: str) -> None:
        limit = self.tolerance * max(1.0, float(a.abs().max()))
        difference = float((a - b).abs().max())
        _expect(
            difference <= limit, what, f"a difference of at most {limit:.1e}", f"{difference:.1e}", change
        )


def _expect(holds: bool, what: str, expected: object, received: object, change: str) -> None:
    if not holds:
        raise ContractError(f"{what}: expected {expected}, received {received}. Change: {change}")


def _check_spec(spec: WorldSpec) -> None:
    sizes = (
        *spec.latent_shape,
        *spec.frame_size,
        *spec.chunk_lengths,
        spec.frames_per_latent,
        spec.num_steps,
    )
    _expect(len(spec.chunk_lengths) > 0, "spec.chunk_lengths", "one length or more", "none", "name them")
    _expect(all(size > 0 for size in sizes), "spec", "positive sizes", sizes, "correct the spec")
    sigmas = spec.sigmas()
    falling = bool((sigmas.diff() < 0).all()) and sigmas[[0, -1]].tolist() == [1, 0]
    _expect(falling, "spec.sigmas()", "falling from 1 to 0", sigmas, "use a positive shift")


def _check_start(probe: _Probe) -> None:
    world, noisy = probe.world, probe.noise(1)
    context = world.begin(probe.scenarios)
    _expect(context.num_latents == 0, "begin", "num_latents 0", context.num_latents, "remember nothing yet")
    _expect(context.num_pasts == 1, "begin", "1 past", context.num_pasts, "one past per scenario")
    _expect(context.given_K is None, "begin", "given_K None", context.given_K, "given_K is known by attend")
    try:
        probe.predict(context, 0, noisy)
    except ValueError:
        pass
    else:
        _expect(False, "predict_clean", "ValueError without attend", "a prediction", "refuse such a context")
    first = probe.predict(world.attend(context, probe.actions(0)), 0, noisy)
    again = probe.predict(world.attend(world.begin(probe.scenarios), probe.actions(0)), 0, noisy)
    _expect(
        torch.equal(first, again), "begin twice", "equal predictions", "others", "use no global randomness"
    )


def _check_batch(probe: _Probe) -> None:
    noisy, context = probe.noise(3), probe.second_chunk()
    batch = probe.predict(context, 1, noisy)
    shape = (3, probe.world.spec.latent_shape[0], probe.length, *probe.world.spec.latent_shape[1:])
    _expect(
        batch.shape == shape, "predict_clean", f"shape {shape}", tuple(batch.shape), "return (B, C, K, H, W)"
    )
    _expect(batch.dtype == torch.float32, "predict_clean", "float32", batch.dtype, "convert in the adapter")
    _expect(bool(batch.isfinite().all()), "predict_clean", "finite values", "NaN or inf", "look for overflow")
    single = torch.cat([probe.predict(context, 1, row[None]) for row in noisy])
    probe.same(single, batch, "a batch against single calls", "let no row of the batch see another")
    mixed = noisy.new_tensor([0.9, 0.5, 0.1])
    with torch.no_grad():
        batch = probe.world.predict_clean(noisy, mixed, probe.actions(1), context)
    single = torch.cat(
        [probe.predict(context, 1, row[None], s) for row, s in zip(noisy, mixed.tolist(), strict=True)]
    )
    probe.same(single, batch, "rows with different sigmas", "use sigma_B row by row")


def _check_memory(probe: _Probe) -> None:
    world, noisy = probe.world, probe.noise(1)
    actions, start = probe.actions(0), world.begin(probe.scenarios)
    attended = world.attend(start, actions)
    _expect(
        start.given_K is None, "attend", "its argument untouched", "given_K was set", "return a new context"
    )
    given = attended.given_K
    fits = given is not None and given.shape == (probe.length,) and given.dtype == torch.bool
    _expect(fits, "attend", f"given_K bool ({probe.length},)", given, "mark the latents that are given")
    before = probe.predict(attended, 0, noisy)
    after = world.remember(attended, before, actions)
    counted = (attended.num_latents, after.num_latents)
    _expect(
        counted == (0, probe.length), "remember", f"(0, {probe.length}) latents", counted, "a new context"
    )
    other = world.attend(world.remember(attended, before + 0.5, actions), probe.actions(1))
    probe.predict(other, 1, noisy)
    again = probe.predict(attended, 0, noisy)
    _expect(
        torch.equal(before, again), "remember", "the older context as it was", "changed", "copy, don't write"
    )
    plain = probe.predict(world.attend(world.remember(start, before, actions), probe.actions(1)), 1, noisy)
    from_attended = probe.predict(world.attend(after, probe.actions(1)), 1, noisy)
    probe.same(plain, from_attended, "remember on an attended context", "give the same as on a plain one")
    if given is not None and bool(given.any()):
        other_noise = probe.predict(attended, 0, probe.noise(2)[1:])
        equal = torch.equal(before[:, :, given], other_noise[:, :, given])
        _expect(equal, "given latents", "the same whatever the noise", "others", "overwrite them")


def _check_decoder(probe: _Probe) -> None:
    world, spec, length = probe.world, probe.world.spec, probe.length
    context, videos = world.begin(probe.scenarios), []
    cleans = []
    for chunk in range(2):
        attended = world.attend(context, probe.actions(chunk))
        clean = probe.predict(attended, chunk, probe.noise(2), 0.9)
        frames = world.decode(clean, attended)
        shape = (2, spec.num_frames(chunk * length, (chunk + 1) * length), 3, *spec.frame_size)
        fits = tuple(frames.shape) == shape and frames.dtype == torch.uint8
        _expect(
            fits, "decode", f"uint8 {shape}", f"{frames.dtype} {tuple(frames.shape)}", "see spec.num_frames"
        )
        context = world.remember(attended, clean[:1], probe.actions(chunk))
        videos.append(frames[:1])
        cleans.append(clean[:1])
    whole = world.decode(torch.cat(cleans, 2), world.begin(probe.scenarios))
    difference = int((torch.cat(videos, 1).int() - whole.int()).abs().max())
    limit = 1 if probe.tolerance <= 1e-4 else 8
    _expect(
        difference <= limit,
        "decode chunk by chunk against decoding the whole",
        f"a difference of at most {limit} of 255",
        difference,
        "let remember advance the decoder's state and decode read it",
    )


def _check_sensitivity(probe: _Probe) -> None:
    world, noisy, context = probe.world, probe.noise(1), probe.second_chunk()
    near = probe.predict(context, 1, noisy, 1e-3)
    error = float((near - noisy)[:, :, ~context.given_K].abs().mean())
    _expect(
        error < 0.1, "predict_clean at sigma 0.001", "the input itself", f"error {error:.2g}", "check sigma"
    )
    actions = probe.actions(1)
    turned = commanded(
        (actions.labels_K[0].cpu() + 20) % 81, world.spec.motion, actions.intrinsics_K4[0, 0].cpu()
    )
    turned = Actions.stack([turned]).to(device_of(world))
    before = probe.predict(context, 1, noisy)
    with torch.no_grad():
        sigma_B = noisy.new_full((1,), 0.7)
        after = world.predict_clean(noisy, sigma_B, turned, world.attend(context, turned))
    change = float((before - after).abs().max())
    _expect(change > 1e-7, "other actions", "another prediction", "the same", "condition on the actions")


def _check_gradients(probe: _Probe) -> None:
    world, noisy = probe.world, probe.noise(2)
    context = probe.second_chunk()
    world.net.zero_grad(set_to_none=True)
    with torch.enable_grad():
        clean = world.predict_clean(noisy, noisy.new_full((2,), 0.7), probe.actions(1), context)
        _expect(
            clean.requires_grad, "predict_clean", "a gradient", "none", "do not detach or use no_grad inside"
        )
        clean.square().mean().backward()
        reached = [p.grad for p in world.net.parameters() if p.grad is not None]
        _expect(
            any(bool(g.any()) for g in reached), "backward", "gradients in net", "none", "train what is used"
        )
        world.net.zero_grad(set_to_none=True)
        begun = world.begin(probe.scenarios)
        attended = world.attend(begun, probe.actions(0))
        after = world.remember(attended, clean[:1].detach(), probe.actions(0))
    held = [name for c in (begun, attended, after) for name, t in _tensors(c) if t.requires_grad]
    _expect(
        not held, "contexts", "no gradient", f"one in {held}", "wrap begin, attend and remember in no_grad"
    )


def _check_pasts(world: WorldModel[Any], scenarios: Sequence[Scenario], tolerance: float) -> None:
    length = world.spec.chunk_lengths[0]
    both = _Probe(world, scenarios, length, tolerance)
    noisy, context = both.noise(4), both.second_chunk()
    _expect(context.num_pasts == 2, "begin of 2 scenarios", "2 pasts", context.num_pasts, "one past each")
    together = both.predict(context, 1, noisy)
    for row, scenario in enumerate(scenarios):
        one = _Probe(world, [scenario], length, tolerance)
        alone = one.predict(context.select(row), 1, noisy[2 * row : 2 * row + 2])
        both.same(
            alone, together[2 * row : 2 * row + 2], "select against the batch of pasts", "rows b // (B // P)"
        )
    frames = world.decode(together, context)
    alone = world.decode(together[2:], context.select(1))
    difference = int((frames[2:].int() - alone.int()).abs().max())
    _expect(
        difference <= 1, "decode of 2 pasts", "frames as of one", difference, "rows belong to b // (B // P)"
    )


def _tensors(context: object) -> list[tuple[str, Tensor]]:
    values = vars(context) if hasattr(context, "__dict__") else {}
    return [(name, value) for name, value in values.items() if isinstance(value, Tensor)]


CARRY = 0.3  # share of the previous latent that goes on by itself
SPREAD = 0.5  # standard deviation of the imagined latents
OBEDIENCE = 0.25  # how much of a commanded motion the untrained world carries out
GRAIN = 0.4  # what it adds to the channels that should stay dark
LEVELS_PER_UNIT = 32  # of 255


class ToyNet(nn.Module):
    """The trained part of the toy: how a latent responds to an action."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 16)
        self.outer = nn.Linear(16, 12)
        generator = generator_for("toy net", seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            self.outer.weight.mul_(0.1)
            self.outer.bias.copy_(torch.tensor([0.0] * 4 + [GRAIN] * 8))

    def forward(self, signs_PK4: Tensor) -> Tensor:
        """Mean response (P, K, 12) to the signs (right, forward, yaw, pitch)."""
        start = OBEDIENCE * nn.functional.pad(signs_PK4, (0, 8))
        return start + self.outer(torch.tanh(self.inner(signs_PK4)))


@dataclass(frozen=True)
class ToyContext:
    """All latents of the past; the start image's latent waits to be given."""

    start_PCHW: Tensor
    latents_PCMHW: Tensor
    given_K: Tensor | None = None

    @property
    def num_pasts(self) -> int:
        """P."""
        return self.start_PCHW.shape[0]

    @property
    def num_latents(self) -> int:
        """Finished latents."""
        return self.latents_PCMHW.shape[2]

    def select(self, row: int) -> ToyContext:
        """One past alone."""
        return ToyContext(self.start_PCHW[row : row + 1], self.latents_PCMHW[row : row + 1], self.given_K)


class ToyWorld:
    """Latents are Gaussian around ``0.3 previous + net(action)``, so the best denoiser has a closed form.

    Channels 0-3 show the motion (right, forward, yaw, pitch), the other 8 should be dark but carry grain.
    Pixels are the channels shuffled into 4x4 images; 2 frames per latent, blended from the one before.
    """

    def __init__(self, seed: int = 0, batches_pasts: bool = True) -> None:
        self.net: nn.Module = ToyNet(seed)
        self.spec = WorldSpec(
            name="toy",
            latent_shape=(12, 2, 2),
            chunk_lengths=(4, 1),
            frames_per_latent=2,
            fps=8.0,
            frame_size=(4, 4),
            shift=2.0,
            num_steps=6,
            motion=Motion(move=1.0, yaw_deg=10.0, pitch_deg=10.0, level=True),
            thresholds=LabelThresholds(move=0.5, yaw_deg=5.0, pitch_deg=5.0),
            batches_pasts=batches_pasts,
        )

    @torch.no_grad()
    def begin(self, scenarios: Sequence[Scenario]) -> ToyContext:
        """Start from the scenarios' images, or from grey ones."""
        grey = torch.full((3, 4, 4), 128, dtype=torch.uint8)
        images = torch.stack([grey if s.image_3hw is None else s.image_3hw for s in scenarios])
        start = latents_of_frames(images).to(device_of(self))
        return ToyContext(start, start.new_empty(len(start), 12, 0, 2, 2))

    @torch.no_grad()
    def attend(self, context: ToyContext, actions: Actions) -> ToyContext:
        """Nothing but to mark what is given."""
        given = torch.arange(len(actions), device=context.start_PCHW.device) + context.num_latents == 0
        return dataclasses.replace(context, given_K=given)

    def predict_clean(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: ToyContext
    ) -> Tensor:
        """The posterior mean of a Gaussian: ``mu + s^2 (1-t) / ((1-t)^2 s^2 + t^2) (x - (1-t) mu)``."""
        if context.given_K is None or len(context.given_K) != noisy_BCKHW.shape[2]:
            raise ValueError(f"attend the context for this chunk of {noisy_BCKHW.shape[2]} latents first")
        response_PKC = self.net(motion_signs(actions.labels_K)).float()
        last = context.start_PCHW if context.num_latents == 0 else context.latents_PCMHW[:, :, -1]
        means = []
        for k, given in enumerate(context.given_K.tolist()):
            last = context.start_PCHW if given else CARRY * last + response_PKC[:, k, :, None, None]
            means.append(last)
        rows_per_past = noisy_BCKHW.shape[0] // context.num_pasts
        mean = torch.stack(means, 2).repeat_interleave(rows_per_past, 0)
        sigma = sigma_B.view(-1, 1, 1, 1, 1)
        trust = SPREAD**2 * (1 - sigma) / ((1 - sigma).square() * SPREAD**2 + sigma.square())
        clean = mean + trust * (noisy_BCKHW - (1 - sigma) * mean)
        return torch.where(context.given_K[:, None, None], mean, clean)

    @torch.no_grad()
    def remember(self, context: ToyContext, clean_PCKHW: Tensor, actions: Actions) -> ToyContext:
        """Append a chunk."""
        return ToyContext(context.start_PCHW, torch.cat([context.latents_PCMHW, clean_PCKHW], 2))

    @torch.no_grad()
    def decode(self, clean_BCKHW: Tensor, context: ToyContext) -> Tensor:
        """Two frames per latent, half way from the one before and itself; the start is one frame."""
        first = context.num_latents == 0
        last = context.start_PCHW if first else context.latents_PCMHW[:, :, -1]
        last = last.repeat_interleave(clean_BCKHW.shape[0] // context.num_pasts, 0)
        before = torch.cat([last[:, :, None], clean_BCKHW[:, :, :-1]], 2)
        frames = torch.stack([(before + clean_BCKHW) / 2, clean_BCKHW], 3).flatten(2, 3).transpose(1, 2)
        pixels = (128 + LEVELS_PER_UNIT * pixel_shuffle(frames, 2)).round().clamp(0, 255).to(torch.uint8)
        return pixels[:, 1:] if first else pixels


def latents_of_frames(frames_3hw: Tensor) -> Tensor:
    """The toy's latents (..., 12, 2, 2) behind its frames (..., 3, 4, 4)."""
    return pixel_unshuffle((frames_3hw.float() - 128) / LEVELS_PER_UNIT, 2)


class ToyObedience:
    """How close the motion comes to the commanded one, read from pixels."""

    name = "obedience"

    def __call__(self, group: Group) -> Scores:
        """Minus the mean distance of the last frame of every latent to what was commanded."""
        frames, labels_K = group.transitions()
        ends = latents_of_frames(frames[:, :: group.frames_per_latent])[:, :, :4].mean((-2, -1))
        motion_GK4 = ends[:, 1:] - CARRY * ends[:, :-1]
        values = -(motion_GK4 - motion_signs(labels_K).to(motion_GK4)).abs().mean((1, 2))
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


class ToyCleanliness:
    """How dark the channels are that should be dark."""

    name = "cleanliness"

    def __call__(self, group: Group) -> Scores:
        """Minus the mean size of the grain in the chunk's frames."""
        values = -latents_of_frames(group.frames_GF3hw)[:, :, 4:].abs().mean((1, 2, 3, 4))
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


def toy_scenarios(count: int, num_latents: int = 8, seed: int = 0) -> list[Scenario]:
    """Scenarios of random actions, one change every latent."""
    motion, result = ToyWorld().spec.motion, []
    for index in range(count):
        labels = torch.randint(0, 81, (num_latents,), generator=generator_for("toy scenario", seed, index))
        labels[0] = 0
        actions = commanded(labels, motion, torch.tensor([1.0, 1.0, 0.5, 0.5]))
        result.append(Scenario(f"toy-{seed}-{index}", actions))
    return result
