"""Executable contracts of world models and critics.

Call ``check_world_model`` and ``check_critic`` in the tests of an adapter or a critic. Every message gives the
expected and the received value, and the change to make.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from worldcompass.actions import ActionSpace, CameraActions
from worldcompass.critic import Critic
from worldcompass.geometry import LabelThresholds, Motion
from worldcompass.rollout import chunk_actions, chunk_noise, given_whole, past_generators
from worldcompass.seeding import generator_for
from worldcompass.types import Actions, Group, Scenario
from worldcompass.world import Encoder, WorldModel, WorldSpec

# Largest difference, relative to max(1, largest value).
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
OTHER_PIXELS = 0.005  # share of a decoder's values that rounding may change by more than one level
WALKING = CameraActions(
    Motion(move=1.0, yaw_deg=5.0, pitch_deg=5.0, level=True), LabelThresholds(0.5, 2.5, 2.5),
    intrinsics=(0.8, 1.0, 0.5, 0.5),
)  # fmt: skip
FORWARD = 9  # the composite of walking ahead


class ContractError(AssertionError):
    """A world model or critic breaks its contract."""


def check_world_model(
    world: WorldModel[Any], scenarios: Sequence[Scenario], tolerance: float | None = None
) -> None:
    """Check an adapter against the whole contract, with two scenarios of some chunks.

    Args:
        scenarios: at least two, each two default chunks longer than its given latents, with different actions.
        tolerance: largest difference between equivalent calls, relative to max(1, largest value); by default
            1e-5 for float32 parameters and 2e-2 otherwise.

    Raises:
        ContractError: at the first broken rule.
    """
    _expect(len(scenarios) >= 2, "scenarios", "at least 2", len(scenarios), "pass two scenarios")
    dtypes = {p.dtype for p in world.net.parameters()}
    tolerance = tolerance or TOLERANCE[torch.float32 if dtypes == {torch.float32} else torch.bfloat16]
    _check_spec(world.spec)
    _check_sampler(world.spec)
    _check_actions(world, scenarios)
    for length in world.spec.chunk_lengths:
        probe = _Probe(world, scenarios[:1], length, tolerance)
        _check_start(probe)
        _check_draws(probe)
        _check_batch(probe)
        _check_memory(probe)
        _check_given(probe)
        _check_decoder(probe)
    probe = _Probe(world, scenarios[:1], world.spec.chunk_lengths[0], tolerance)
    _check_sensitivity(probe)
    _check_gradients(probe)
    _check_encoder(probe)
    if world.spec.batches_pasts:
        _check_pasts(world, scenarios[:2], tolerance)


def check_critic(critic: Critic, group: Group | None = None) -> None:
    """Check a critic against its contract on ``group``, or on three candidates of coloured noise.

    Raises:
        ContractError: at the first broken rule.
    """
    group = group or noise_group()
    size = group.frames_GF3hw.shape[0]
    named = bool(critic.name) and isinstance(critic.name, str)
    _expect(named, "name", "a word", critic.name, "name the critic")
    before = group.frames_GF3hw.clone(), group.past_frames_F3hw.clone()
    scores = critic(group)
    untouched = torch.equal(before[0], group.frames_GF3hw) and torch.equal(before[1], group.past_frames_F3hw)
    _expect(untouched, "a call", "the group left as it was", "changed frames", "copy before writing")
    values, valid = scores.values_G, scores.valid_G
    if values.requires_grad:  # a run asks it without gradients
        warnings.warn(f"the critic {critic.name} keeps a graph: call it in torch.no_grad()", stacklevel=2)
    _expect(values.shape == (size,), "values_G", f"shape ({size},)", values.shape, "one score per candidate")
    _expect(values.dtype == torch.float32, "values_G", "float32", values.dtype, "call .float()")
    masked = valid.shape == (size,) and valid.dtype == torch.bool
    _expect(masked, "valid_G", f"bool ({size},)", valid, "a mask")
    each = values[:, None] if scores.each_GL is None else scores.each_GL
    _expect(each.shape[:1] == (size,), "each_GL", f"({size}, L)", each.shape, "score each candidate")
    for name, part in (("values_G", values), ("each_GL", each)):
        _expect(bool(part.isfinite().all()), name, "finite", part, "abstain with valid_G = False and a 0")
    again = critic(group).values_G
    _expect(torch.equal(values, again), "a second call", values, again, "use no global randomness")
    mirrored = critic(dataclasses.replace(group, frames_GF3hw=group.frames_GF3hw.flip(0))).values_G.flip(0)
    close = torch.allclose(mirrored, values, rtol=1e-4, atol=1e-5)
    _expect(close, "reordered candidates", values, mirrored, "score each candidate by itself")
    alone = critic(dataclasses.replace(group, frames_GF3hw=group.frames_GF3hw[:1]))
    close = alone.values_G.shape == (1,) and torch.allclose(alone.values_G, values[:1], rtol=1e-4, atol=1e-5)
    _expect(close or not alone.valid_G.any(), "one alone", values[:1], alone, "abstain, if you must compare")


def noise_group(size: int = 3, height: int = 48, width: int = 64, spec: WorldSpec | None = None) -> Group:
    """A group of noise for smoke tests: 4 commanded latents after 5 past frames.

    Args:
        size: G, candidates.
        height: in pixels, of a world that walks forward.
        width: in pixels.
        spec: of the world whose frame size, frames per latent and actions to use instead.
    """
    generator = generator_for("noise group")
    space, per_latent = spec.actions if spec else WALKING, spec.frames_per_latent if spec else 4
    height, width = spec.frame_size if spec else (height, width)

    def frames(*shape: int) -> Tensor:
        return torch.randint(0, 256, (*shape, 3, height, width), generator=generator, dtype=torch.uint8)

    past = frames(5)
    actions = space.commanded(torch.full((4,), FORWARD if spec is None else space.num_composites - 1))
    return Group(frames(size, 4 * per_latent), past, past[0], actions, frames_per_latent=per_latent)


@dataclass(frozen=True)
class _Probe:
    """Some scenarios of a world at one chunk length, and the calls that checks share."""

    world: WorldModel[Any]
    scenarios: Sequence[Scenario]
    length: int
    tolerance: float
    first_row: int = 0
    """Row of the first scenario in its batch, from which its random numbers derive."""

    @property
    def keys(self) -> list[tuple[str, int]]:
        return [("check", self.first_row + row) for row in range(len(self.scenarios))]

    def has(self, chunk: int) -> bool:
        return all(len(s.actions) >= (chunk + 1) * self.length for s in self.scenarios)

    def actions(self, chunk: int) -> Actions:
        return chunk_actions(self.world, self.scenarios, chunk, self.length)

    def noise(self, rows: int) -> Tensor:
        return chunk_noise(self.world, self.length, [("check", row) for row in range(rows)])(0)

    def attend(self, context: Any, chunk: int) -> Any:
        return self.world.attend(context, self.actions(chunk), past_generators(self.keys, chunk))

    def remember_mild_noise(self, attended: Any, chunk: int) -> Any:
        noise = chunk_noise(self.world, self.length, self.keys)(0)
        clean = self.predict(attended, chunk, noise, float(self.world.spec.sigmas()[0]))
        return self.world.remember(attended, clean, self.actions(chunk))

    def later(self) -> tuple[Any, int]:
        """A context with a past, attended for a chunk with imagined latents, and the chunk's index."""
        context, chunk = self.past()
        return self.attend(context, chunk), chunk

    def past(self) -> tuple[Any, int]:
        """The context of ``later`` before it is attended."""
        context, chunk = self.world.begin(self.scenarios), 0
        while self.has(chunk):
            attended = self.attend(context, chunk)
            if chunk and not given_whole(attended):
                return context, chunk
            context, chunk = self.remember_mild_noise(attended, chunk), chunk + 1
        what = f"chunks of {self.length} latents"
        change = "give fewer latents, or pass longer scenarios"
        raise _broken(what, "one with a past and something to imagine", f"none in {chunk} chunks", change)

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
        raise _broken(what, expected, received, change)


def _broken(what: str, expected: object, received: object, change: str) -> ContractError:
    return ContractError(f"{what}: expected {expected}, received {received}. Change: {change}")


def _check_spec(spec: WorldSpec) -> None:
    sizes = (
        *spec.latent_shape,
        *spec.frame_size,
        *spec.chunk_lengths,
        spec.frames_per_latent,
        spec.first_latent_frames,
    )
    _expect(len(spec.chunk_lengths) > 0, "spec.chunk_lengths", "one length or more", "none", "name them")
    _expect(all(size > 0 for size in sizes), "spec", "positive sizes", sizes, "correct the spec")
    sigmas = spec.sigmas()
    falling = bool((sigmas.diff() < 0).all()) and float(sigmas[0]) <= 1 and float(sigmas[-1]) == 0
    _expect(falling, "spec.sigmas()", "falling from at most 1 to 0", sigmas, "see worldcompass.noise")
    for name, way in spec.ways.items():
        known = way.chunk_length in spec.chunk_lengths
        what = f"chunk length of the way {name}"
        _expect(known, what, f"one of {spec.chunk_lengths}", way.chunk_length, "correct spec.play")
        try:
            spec.sigmas(way.num_steps)
        except ValueError as why:
            raise _broken(
                f"steps of the way {name}", "those of spec.schedule", why, "correct spec.play"
            ) from why


def _check_sampler(spec: WorldSpec) -> None:
    """A step from a latent at one level leads to the next level, with standard normal noise times that level."""
    clean, noise, other = torch.randn(3, 1, 4096, generator=generator_for("check sampler"))
    levels = spec.sigmas().tolist()
    for sigma, next_sigma in pairwise(levels):
        noisy = (1 - sigma) * clean + sigma * noise
        found = spec.sampler(noisy, clean, sigma, next_sigma, lambda: other) - (1 - next_sigma) * clean
        size = float(found.std())
        close = abs(size - next_sigma) <= 0.05 * next_sigma
        words = f"spec.sampler from {sigma:.3g} to {next_sigma:.3g}"
        _expect(close, words, f"noise of size {next_sigma:.3g}", f"{size:.3g}", "see worldcompass.noise")


def _check_actions(world: WorldModel[Any], scenarios: Sequence[Scenario]) -> None:
    space = world.spec.actions
    known = isinstance(space, ActionSpace)
    _expect(
        known, "spec.actions", "CameraActions or Controls", type(space).__name__, "say what can be commanded"
    )
    for scenario in scenarios:
        try:
            space.check(scenario.actions)
        except ValueError as why:
            what = f"actions of scenario {scenario.id}"
            raise _broken(what, space.describe(), why, "make them with spec.actions") from why


def _check_start(probe: _Probe) -> None:
    world, noisy = probe.world, probe.noise(1)
    names = list(signature(world.attend).parameters)
    change = "let attend take generators=None as well, one for each past; draw from nothing else"
    _expect(len(names) == 3, "attend", "context, actions, generators", ", ".join(names), change)
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
    try:
        first = probe.predict(probe.attend(context, 0), 0, noisy)
    except ValueError as why:
        wanted = f"a prediction for {world.spec.actions.describe()}"
        raise _broken("attend and predict_clean", wanted, why, "read what spec.actions declares") from why
    _check_clean(probe, first, 1)
    again = probe.predict(probe.attend(world.begin(probe.scenarios), 0), 0, noisy)
    same = torch.equal(first, again)
    _expect(same, "begin twice", "equal predictions", "others", "use no global randomness")


def _check_given(probe: _Probe) -> None:
    """Check every chunk with given latents."""
    world, noise, chunk = probe.world, probe.noise(2), 0
    context = world.begin(probe.scenarios)
    while probe.has(chunk):
        attended = probe.attend(context, chunk)
        given = attended.given_K
        fits = given is not None and given.shape == (probe.length,) and given.dtype == torch.bool
        _expect(fits, "attend", f"given_K bool ({probe.length},)", given, "mark the latents that are given")
        if given is None or not bool(given.any()):
            return
        with _passes_of(world.net) as passes:
            found = [
                probe.predict(attended, chunk, noise[:1]),
                probe.predict(attended, chunk, noise[1:]),
                probe.predict(attended, chunk, noise[:1], 0.2),
            ]
        same = all(torch.equal(found[0][:, :, given], other[:, :, given]) for other in found)
        _expect(
            same, "given latents", "the same whatever the noise and its level", "others", "overwrite them"
        )
        free = not passes or not given_whole(attended)
        words = f"predict_clean of chunk {chunk}, which is given whole"
        _expect(free, words, "no pass through net", f"{len(passes)}", "return what is given at once")
        context, chunk = world.remember(attended, found[0], probe.actions(chunk)), chunk + 1


def _check_draws(probe: _Probe) -> None:
    """Random numbers come from the generators and are drawn only in ``attend``."""
    world, noisy = probe.world, probe.noise(1)
    attended, chunk = probe.later()
    first, again = (probe.predict(attended, chunk, noisy) for _ in range(2))
    change = "draw in attend, and keep what was drawn in the context"
    _expect(torch.equal(first, again), "predict_clean twice", "equal predictions", "others", change)
    other, chunk = probe.later()
    equal = torch.equal(first, probe.predict(other, chunk, noisy))
    change = "draw from the generators that attend is given, and from nothing else"
    _expect(equal, "attend with equal generators", "equal predictions", "others", change)
    context, chunk = probe.past()
    try:
        bare = [world.attend(context, probe.actions(chunk)) for _ in range(2)]
    except (TypeError, ValueError):  # refused
        return
    equal = torch.equal(*(probe.predict(attended, chunk, noisy) for attended in bare))
    change = "refuse None with a ValueError where something is drawn"
    _expect(equal, "attend without generators twice", "equal predictions, or a refusal", "others", change)


def _check_clean(probe: _Probe, clean: Tensor, rows: int) -> None:
    """A prediction of so many rows has the shape, the type and the numbers that later stages need."""
    channels, height, width = probe.world.spec.latent_shape
    shape = (rows, channels, probe.length, height, width)
    found = tuple(clean.shape)
    _expect(found == shape, "predict_clean", f"shape {shape}", found, "return (B, C, K, H, W)")
    _expect(clean.dtype == torch.float32, "predict_clean", "float32", clean.dtype, "convert in the adapter")
    _expect(bool(clean.isfinite().all()), "predict_clean", "finite values", "NaN or inf", "look for overflow")


def _check_batch(probe: _Probe) -> None:
    noisy, (context, chunk) = probe.noise(3), probe.later()
    batch = probe.predict(context, chunk, noisy)
    _check_clean(probe, batch, 3)
    single = torch.cat([probe.predict(context, chunk, row[None]) for row in noisy])
    probe.same(single, batch, "a batch against single calls", "let no row of the batch see another")
    mixed = noisy.new_tensor([0.9, 0.5, 0.1])
    with torch.no_grad():
        batch = probe.world.predict_clean(noisy, mixed, probe.actions(chunk), context)
    single = torch.cat(
        [probe.predict(context, chunk, row[None], s) for row, s in zip(noisy, mixed.tolist(), strict=True)]
    )
    probe.same(single, batch, "rows with different sigmas", "use sigma_B row by row")


def _check_memory(probe: _Probe) -> None:
    world, noisy = probe.world, probe.noise(1)
    actions, start = probe.actions(0), world.begin(probe.scenarios)
    attended = probe.attend(start, 0)
    untouched = start.given_K is None
    _expect(untouched, "attend", "its argument untouched", "given_K was set", "return a new context")
    before = probe.predict(attended, 0, noisy)
    after = world.remember(attended, before, actions)
    counted = (attended.num_latents, after.num_latents)
    _expect(
        counted == (0, probe.length), "remember", f"(0, {probe.length}) latents", counted, "a new context"
    )
    other = probe.attend(world.remember(attended, before + 0.5, actions), 1)
    probe.predict(other, 1, noisy)
    again = probe.predict(attended, 0, noisy)
    same = torch.equal(before, again)
    _expect(same, "remember", "the older context as it was", "changed", "copy, don't write")
    plain = probe.predict(probe.attend(world.remember(start, before, actions), 1), 1, noisy)
    from_attended = probe.predict(probe.attend(after, 1), 1, noisy)
    probe.same(plain, from_attended, "remember on an attended context", "give the same as on a plain one")


def _check_decoder(probe: _Probe) -> None:
    world, spec, length = probe.world, probe.world.spec, probe.length
    context, videos = world.begin(probe.scenarios), []
    cleans = []
    for chunk in range(2):
        attended = probe.attend(context, chunk)
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
    world, noisy, (context, chunk) = probe.world, probe.noise(1), probe.later()
    near = probe.predict(context, chunk, noisy, 1e-3)
    error = float((near - noisy)[:, :, ~context.given_K].abs().mean())
    near, said = error < 0.1, f"error {error:.2g}"
    _expect(near, "predict_clean at sigma 0.001", "the input itself", said, "check sigma")
    actions = probe.actions(chunk)
    before = probe.predict(context, chunk, noisy)
    for index, axis in enumerate(world.spec.actions.axes):
        changed = world.spec.actions.changed(actions, index)
        with torch.no_grad():
            attended = world.attend(context, changed, past_generators(probe.keys, chunk))
            after = world.predict_clean(noisy, noisy.new_full((1,), 0.7), changed, attended)
        what, change = f"other actions along {axis}", float((before - after).abs().max())
        _expect(change > 1e-7, what, "another prediction", "the same", "condition on every axis")


def _check_gradients(probe: _Probe) -> None:
    world, noisy = probe.world, probe.noise(2)
    context, chunk = probe.later()
    world.net.zero_grad(set_to_none=True)
    with torch.enable_grad():
        clean = world.predict_clean(noisy, noisy.new_full((2,), 0.7), probe.actions(chunk), context)
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
        attended = probe.attend(begun, 0)
        after = world.remember(attended, clean[:1].detach(), probe.actions(0))
    held = [name for c in (begun, attended, after) for name, t in _tensors(c) if t.requires_grad]
    _expect(
        not held, "contexts", "no gradient", f"one in {held}", "wrap begin, attend and remember in no_grad"
    )


def _check_encoder(probe: _Probe) -> None:
    world, spec, length = probe.world, probe.world.spec, probe.length
    if not isinstance(world, Encoder):
        return
    generator = generator_for("encoder of", spec.name)
    shape = (1, spec.num_frames(0, length), 3, *spec.frame_size)
    frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    latents, (channels, height, width) = world.encode(frames), spec.latent_shape
    wanted = (1, channels, length, height, width)
    _expect(latents.shape == wanted, "encode", f"shape {wanted}", tuple(latents.shape), "one row per video")
    _expect(latents.dtype == torch.float32, "encode", "float32", latents.dtype, "call .float()")
    fewer = world.encode(frames[:, : spec.num_frames(0, length - 1)]) if length > 1 else latents
    _expect(
        torch.allclose(fewer, latents[:, :, : fewer.shape[2]], atol=1e-4), "encode of a shorter video",
        "the same first latents", "others", "let no latent depend on later frames",
    )  # fmt: skip


def _check_pasts(world: WorldModel[Any], scenarios: Sequence[Scenario], tolerance: float) -> None:
    length = world.spec.chunk_lengths[0]
    both = _Probe(world, scenarios, length, tolerance)
    begun = world.begin(scenarios).num_pasts
    _expect(begun == 2, "begin of 2 scenarios", "2 pasts", begun, "one past each")
    noisy, (context, chunk) = both.noise(4), both.later()
    together = both.predict(context, chunk, noisy)
    for row, scenario in enumerate(scenarios):
        one, rows = _Probe(world, [scenario], length, tolerance, row), slice(2 * row, 2 * row + 2)
        selected = one.predict(context.select(row), chunk, noisy[rows])
        both.same(selected, together[rows], "select against the batch of pasts", "rows b // (B // P)")
        alone = one.predict(one.later()[0], chunk, noisy[rows])
        change = "let every past draw from its own generator, and see no other past"
        both.same(alone, together[rows], "a past alone against the batch of pasts", change)
    frames = world.decode(together, context)
    alone = world.decode(together[2:], context.select(1))
    # Rounding may cross a decision of the decoder, such as which way to warp, in single pixels.
    share = float(((frames[2:].int() - alone.int()).abs() > 1).float().mean())
    _expect(
        share <= OTHER_PIXELS, "decode of 2 pasts", "frames as of one", f"{share:.1%} other pixels",
        "rows belong to b // (B // P)",
    )  # fmt: skip


@contextmanager
def _passes_of(net: nn.Module) -> Iterator[list[object]]:
    """A list that grows by one entry with every pass through the network inside the block."""
    passes: list[object] = []
    with net.register_forward_pre_hook(lambda *_: passes.append(None)):
        yield passes


def _tensors(context: object) -> list[tuple[str, Tensor]]:
    values = vars(context) if hasattr(context, "__dict__") else {}
    return [(name, value) for name, value in values.items() if isinstance(value, Tensor)]
