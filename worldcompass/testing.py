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
from torch import Tensor

from worldcompass.critic import Critic
from worldcompass.geometry import Motion, commanded
from worldcompass.rollout import chunk_actions, chunk_noise, device_of
from worldcompass.seeding import generator_for
from worldcompass.types import Actions, Group, Scenario
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
        return chunk_noise(self.world, self.length, [("check", row) for row in range(rows)])(0)

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
