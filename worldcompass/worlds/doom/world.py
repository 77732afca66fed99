"""The embedded world model of Doom: autoencoder and transformer behind the contract of ``world.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.geometry import angles_from_rotation, level_motion
from worldcompass.noise import ShiftedLevels
from worldcompass.types import Actions, Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.doom.engine.facts import (
    ACTIONS,
    FPS,
    FRAME_HEIGHT,
    FRAME_WIDTH,
    FRAMES_PER_LATENT,
    INTRINSICS,
    MAX_PITCH_DEG,
    MOTION,
    NOMINAL,
)
from worldcompass.worlds.doom.network.autoencoder import LATENT_SHAPE, Autoencoder, Look
from worldcompass.worlds.doom.network.transformer import (
    TOKENS,
    DoomTransformer,
    Prefix,
    Rotary,
    after_prefix,
    rotary_table,
    rotate,
)

WEIGHTS_VERSION = "4"
AUTOENCODER_FILE, WORLD_FILE = "doom_autoencoder.safetensors", "doom_world.safetensors"
RECENT_LATENTS = 4  # the attention window of latents right before the chunk
MEMORY_LATENTS = 4  # one older stretch, chosen by its pose for the coming chunk
MAX_HISTORY = 64  # latents whose keys are kept; the oldest after the first stretch are let go
CONTEXT_SIGMA = 0.1  # noise level that finished latents declare: they are imagined, not exact
MEMORY_MOVE, MEMORY_TURN_DEG = 100.0, 45.0  # pose differences that count alike when choosing memory
ROWS_PER_THREAD = 24  # rows of the network whose tensors fit into a core's cache (docs/performance.md)
CLIPS_PER_THREAD = 6  # candidates decoded at once there

SCHEDULE = ShiftedLevels(shift=2.0, num_steps=8)
SPEC = WorldSpec(
    name="doom",
    latent_shape=LATENT_SHAPE,
    chunk_lengths=(4, 1),
    frames_per_latent=FRAMES_PER_LATENT,
    fps=FPS,
    frame_size=(FRAME_HEIGHT, FRAME_WIDTH),
    schedule=SCHEDULE,
    actions=ACTIONS,
    batches_pasts=True,
)


@dataclass(frozen=True)
class _Remembered:
    """Keys of one finished chunk of every past."""

    keys: Prefix
    """Per block: keys without rotary embedding and values, (P, heads, K * TOKENS, head_dim)."""
    poses_PK44: Tensor
    latents_PCKHW: Tensor

    def select(self, rows: slice) -> _Remembered:
        """Some of the pasts."""
        return _Remembered(
            [(k[rows], v[rows]) for k, v in self.keys], self.poses_PK44[rows], self.latents_PCKHW[rows]
        )


@dataclass(frozen=True)
class _Attended:
    """What was prepared for the coming chunk."""

    given_K: Tensor
    labels_PK: Tensor
    motion_PK5: Tensor
    look_P: Look
    """Of the last finished latent."""
    seen_PDKHW: Tensor
    """What the chunk's cameras see of the past, see ``carried_along``."""
    rotary: Rotary
    """Of the chunk's own tokens, (P, 1, K * TOKENS, HEAD / 2)."""
    prefix: Prefix | None
    """Keys and values of the past that the chunk may see, with their rotary embedding."""

    def select(self, rows: slice) -> _Attended:
        """Some of the pasts."""
        prefix = self.prefix and [(k[rows], v[rows]) for k, v in self.prefix]
        rotary = (self.rotary[0][rows], self.rotary[1][rows])
        labels, motion, seen = self.labels_PK[rows], self.motion_PK5[rows], self.seen_PDKHW[rows]
        return _Attended(self.given_K, labels, motion, self.look_P.select(rows), seen, rotary, prefix)


@dataclass(frozen=True)
class DoomContext:
    """P pasts: keys per chunk, the last latent (the decoder's whole memory) and the last pose."""

    last_PCHW: Tensor
    """The last finished latent; the start image's before the first chunk."""
    last_pose_P44: Tensor
    num_latents: int = 0
    history: tuple[_Remembered, ...] = ()
    attended: _Attended | None = None

    @property
    def num_pasts(self) -> int:
        """P."""
        return len(self.last_PCHW)

    @property
    def given_K(self) -> Tensor | None:
        """Which latents of the coming chunk are given; None before ``attend``."""
        return self.attended.given_K if self.attended else None

    def older(self) -> tuple[Tensor, Tensor] | None:
        """All finished latents before the last one, (P, C, M, H, W), and their poses."""
        latents = [h.latents_PCKHW for h in self.history]
        if sum(x.shape[2] for x in latents) < 2:
            return None
        poses = torch.cat([h.poses_PK44 for h in self.history], 1)
        return torch.cat(latents, 2)[:, :, :-1], poses[:, :-1]

    def select(self, row: int) -> DoomContext:
        """The context of one past alone."""
        rows = slice(row, row + 1)
        history = tuple(h.select(rows) for h in self.history)
        attended = self.attended and self.attended.select(rows)
        return DoomContext(
            self.last_PCHW[rows], self.last_pose_P44[rows], self.num_latents, history, attended
        )


class DoomWorld:
    """Implements ``WorldModel[DoomContext]``; see there for shapes and meaning."""

    spec: WorldSpec = SPEC

    def __init__(self, autoencoder: Autoencoder, net: DoomTransformer) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.net = net
        self._looked: tuple[Tensor, Look] | None = None

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device

    @torch.no_grad()
    def begin(self, scenarios: Sequence[Scenario]) -> DoomContext:
        """Encode the start images.

        Raises:
            ValueError: for a scenario without an image of the world's size.
        """
        for scenario in scenarios:
            shape = None if scenario.image_3hw is None else tuple(scenario.image_3hw.shape)
            if shape != (3, *self.spec.frame_size):
                raise ValueError(
                    f"scenario {scenario.id}: the Doom world starts from a uint8 image of shape"
                    f" (3, {FRAME_HEIGHT}, {FRAME_WIDTH}), got {shape}: see worldcompass.media.video.fit"
                )
        images = torch.stack([s.image_3hw for s in scenarios if s.image_3hw is not None]).to(self._device)
        latent = self.autoencoder.encode_video(images[:, None].float() / 255)[:, :, 0]
        pose = torch.stack([s.actions.cameras.world_from_camera_K44[0] for s in scenarios]).to(self._device)
        return DoomContext(latent, pose)

    @torch.no_grad()
    def attend(
        self, context: DoomContext, actions: Actions, generators: Sequence[torch.Generator] | None = None
    ) -> DoomContext:
        """Choose the memory for the coming poses and gather its keys."""
        count, start = len(actions), context.num_latents
        given = torch.zeros(count, dtype=torch.bool, device=self._device)
        given[0] = start == 0
        poses, labels = actions.cameras.world_from_camera_K44, actions.cameras.labels_K
        motion = camera_motion(context.last_pose_P44, poses)
        look = self._look(context.last_PCHW)
        older = context.older()
        seen = carried_along(self.autoencoder, look, context.last_pose_P44, older, poses)
        chosen = _choose(context, poses[:, -1])
        before = chosen.shape[1]
        positions = torch.arange(before + count, device=self._device).float().expand(len(poses), -1)
        rotary = rotary_table(positions[:, before:], poses)
        prefix = _gather(context, chosen, positions[:, :before]) if before else None
        attended = _Attended(given, labels, motion, look, seen, rotary, prefix)
        return replace(context, attended=attended)

    def predict_clean(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: DoomContext
    ) -> Tensor:
        """See ``WorldModel.predict_clean``."""
        attended, last_PCHW = _attended_for(context, noisy_BCKHW.shape[2]), context.last_PCHW
        rows = len(noisy_BCKHW) // context.num_pasts
        if context.num_latents == 0 and noisy_BCKHW.shape[2] == 1:
            return last_PCHW.repeat_interleave(rows, 0)[:, :, None]  # the start image, given whole
        pieces = [
            self._predict(noisy_BCKHW[own], sigma_B[own], last_PCHW[some], attended.select(some))
            for some, own in self._pieces(context.num_pasts, rows, ROWS_PER_THREAD)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _predict(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, last_PCHW: Tensor, attended: _Attended
    ) -> Tensor:
        rows = len(noisy_BCKHW) // len(last_PCHW)
        given = attended.given_K[:, None, None]
        last = last_PCHW.repeat_interleave(rows, 0)
        noisy = torch.where(given, last[:, :, None], noisy_BCKHW)
        sigma_BK = torch.where(attended.given_K, 0.0, sigma_B[:, None])
        velocity, _ = self.net(
            noisy, sigma_BK, attended.labels_PK.repeat_interleave(rows, 0),
            attended.motion_PK5.repeat_interleave(rows, 0), last, attended.seen_PDKHW.repeat_interleave(rows, 0),
            rotary=_repeat(attended.rotary, rows), attend=after_prefix(attended.prefix),
        )  # fmt: skip
        clean = noisy - sigma_B.view(-1, 1, 1, 1, 1) * velocity.float()
        return torch.where(given, last[:, :, None], clean)

    def _pieces(self, num_pasts: int, rows: int, per_thread: int) -> list[tuple[slice, slice]]:
        """Some pasts at a time with their rows; on a CPU about ``per_thread`` rows for each thread.

        Threads share a piece: what fits into their caches is faster. Any other device takes all at once.
        """
        on_cpu = self._device.type == "cpu"
        step = max(1, per_thread * torch.get_num_threads() // rows) if on_cpu else num_pasts
        starts = range(0, num_pasts, step)
        return [(slice(p, p + step), slice(p * rows, (p + step) * rows)) for p in starts]

    def weaken(self, context: DoomContext) -> DoomContext:
        """See ``Guidable``: without what the chunk's cameras see of the last latent."""
        attended = context.attended
        assert attended is not None
        blind = replace(attended, seen_PDKHW=torch.zeros_like(attended.seen_PDKHW))
        return replace(context, attended=blind)

    @torch.no_grad()
    def encode(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``Encoder``."""
        return self.autoencoder.encode_video(frames_PF3hw.to(self._device).float() / 255)

    @torch.no_grad()
    def remember(self, context: DoomContext, clean_PCKHW: Tensor, actions: Actions) -> DoomContext:
        """Append a finished chunk: its keys, its last latent, its last pose."""
        attended = (context if context.attended else self.attend(context, actions)).attended
        assert attended is not None
        sigma = torch.where(attended.given_K, 0.0, CONTEXT_SIGMA).expand(context.num_pasts, -1)
        _, keys = self.net(
            clean_PCKHW, sigma, attended.labels_PK, attended.motion_PK5, context.last_PCHW, attended.seen_PDKHW,
            rotary=attended.rotary, attend=after_prefix(attended.prefix), keep_keys=True,
        )  # fmt: skip
        kept = [(k.clone(), v.clone()) for k, v in keys]  # views would keep the queries too
        history = (*context.history, _Remembered(kept, actions.cameras.world_from_camera_K44, clean_PCKHW))
        return DoomContext(
            clean_PCKHW[:, :, -1],
            actions.cameras.world_from_camera_K44[:, -1],
            context.num_latents + len(actions),
            _bounded(history),
        )

    @torch.no_grad()
    def decode(self, clean_BCKHW: Tensor, context: DoomContext) -> Tensor:
        """Frames of a chunk; the decoder's memory of the past is its last latent."""
        previous = None
        if context.num_latents:
            look_P = _attended_for(context, clean_BCKHW.shape[2]).look_P
            previous = look_P.repeat(len(clean_BCKHW) // context.num_pasts)
        pieces = [
            self._frames(clean_BCKHW[own], previous and previous.select(own))
            for own, _ in self._pieces(len(clean_BCKHW), 1, CLIPS_PER_THREAD)
        ]
        return torch.cat(pieces)

    def _frames(self, clean_BCKHW: Tensor, previous: Look | None) -> Tensor:
        latents = clean_BCKHW.float().transpose(1, 2)
        looks = self._look(latents.flatten(0, 1)).unflatten(latents.shape[:2])
        frames = self.autoencoder.frames_of(looks, previous)
        return (frames.clamp(0, 1) * 255).round().to(torch.uint8)

    def _look(self, latents_BCHW: Tensor) -> Look:
        """``Autoencoder.look``. In inference mode the last one is kept: live play attends to what it just decoded.

        Elsewhere, where batches are large and come once, comparing would cost a device a pause.
        """
        if not latents_BCHW.is_inference():
            return self.autoencoder.look(latents_BCHW)
        known = self._looked
        if known is None or known[0].device != latents_BCHW.device or not known[0].equal(latents_BCHW):
            known = self._looked = (latents_BCHW, self.autoencoder.look(latents_BCHW))
        return known[1]


def camera_motion(last_pose_P44: Tensor, world_from_camera_PK44: Tensor) -> Tensor:
    """Motion of each latent in nominal units with its pitch in units of the largest; (P, K, 5)."""
    previous = torch.cat([last_pose_P44[:, None], world_from_camera_PK44[:, :-1]], 1)
    motion = level_motion(previous, world_from_camera_PK44) / world_from_camera_PK44.new_tensor(NOMINAL)
    _, pitch = angles_from_rotation(world_from_camera_PK44[..., :3, :3])
    return torch.cat([motion, pitch[..., None] / MAX_PITCH_DEG], -1)


def motion_from(last_pose_P44: Tensor, world_from_camera_PK44: Tensor) -> tuple[Tensor, Tensor]:
    """Motion from the last pose to each of a chunk's (P, K, 4), and the last pitch (P,), in nominal units."""
    last = last_pose_P44[:, None].expand_as(world_from_camera_PK44)
    motion = level_motion(last, world_from_camera_PK44) / world_from_camera_PK44.new_tensor(NOMINAL)
    _, pitch = angles_from_rotation(last_pose_P44[:, :3, :3])
    return motion, pitch / MOTION.pitch_deg


def carried_along(
    autoencoder: Autoencoder,
    look: Look,
    last_pose_P44: Tensor,
    older: tuple[Tensor, Tensor] | None,
    poses_PK44: Tensor,
) -> Tensor:
    """What a chunk's cameras see of the last latent and, where that shows nothing, of an older one.

    Args:
        look: of the last latent.
        last_pose_P44: its pose.
        older: latents (P, C, M, H, W) and poses of the past before it; the view nearest to the chunk's end serves.
        poses_PK44: of the chunk.

    Returns:
        See ``Autoencoder.seen_from``; (P, C + 1, K, H, W).
    """
    pasts = [(look, *motion_from(last_pose_P44, poses_PK44))]
    if older is not None:
        latents, poses = older
        rows = torch.arange(len(poses), device=poses.device)
        best = _pose_distance(poses, poses_PK44[:, -1]).argmin(1)
        memory = autoencoder.look(latents[rows, :, best])
        pasts.append((memory, *motion_from(poses[rows, best], poses_PK44)))
    return autoencoder.seen_from(pasts)


def _attended_for(context: DoomContext, count: int) -> _Attended:
    if context.attended is None or len(context.attended.given_K) != count:
        have = (
            "not attended"
            if context.attended is None
            else f"attended for {len(context.attended.given_K)} latents"
        )
        raise ValueError(f"the context is {have}, the chunk has {count}: call attend(context, actions) first")
    return context.attended


def _bounded(history: tuple[_Remembered, ...]) -> tuple[_Remembered, ...]:
    """Let the oldest chunks after the first go when there are more than ``MAX_HISTORY`` latents."""
    while sum(h.poses_PK44.shape[1] for h in history) > MAX_HISTORY:
        history = (history[0], *history[2:])
    return history


def _repeat(rotary: Rotary, rows: int) -> Rotary:
    cos, sin = (part.repeat_interleave(rows, 0) for part in rotary)
    return cos, sin


def _choose(context: DoomContext, target_P44: Tensor) -> Tensor:
    """Which finished latents the coming chunk sees: the memory stretch, then the recent ones; (P, N)."""
    total = sum(h.poses_PK44.shape[1] for h in context.history)
    older = max(0, total - RECENT_LATENTS)
    recent = torch.arange(older, total, device=target_P44.device).expand(context.num_pasts, -1)
    if older == 0:
        return recent
    poses = torch.cat([h.poses_PK44 for h in context.history], 1)
    num_starts = max(1, older - MEMORY_LATENTS + 1)
    best = _pose_distance(poses[:, :num_starts], target_P44).argmin(1)
    memory = best[:, None] + torch.arange(min(MEMORY_LATENTS, older), device=best.device)
    return torch.cat([memory, recent], 1)


def _gather(context: DoomContext, chosen_PN: Tensor, positions_PN: Tensor) -> Prefix:
    """Rotated keys and values of the chosen latents of each past, at consecutive positions in time."""
    history: Sequence[_Remembered] = context.history
    if (
        chosen_PN.is_inference()
    ):  # live play, where copying the past counts; elsewhere asking would pause a device
        history, chosen_PN = _needed(context.history, chosen_PN)
    poses = torch.cat([h.poses_PK44 for h in history], 1)
    rows = torch.arange(len(poses), device=poses.device)[:, None]
    rotary = rotary_table(positions_PN, poses[rows, chosen_PN])
    tokens = (chosen_PN[..., None] * TOKENS + torch.arange(TOKENS, device=poses.device)).flatten(1)
    keys = []
    for block in range(len(history[0].keys)):
        whole = (torch.cat([h.keys[block][part] for h in history], 2) for part in (0, 1))
        key, value = (rotate(x.transpose(1, 2)[rows, tokens].transpose(1, 2), rotary) for x in whole)
        keys.append((key, value))
    return keys


def _needed(history: tuple[_Remembered, ...], chosen_PN: Tensor) -> tuple[list[_Remembered], Tensor]:
    """The finished chunks that hold a chosen latent of any past, and the choice counted in those alone."""
    chunk_M = torch.cat([torch.full((h.poses_PK44.shape[1],), i) for i, h in enumerate(history)])
    chosen = chosen_PN.cpu()
    wanted = torch.zeros(len(history), dtype=torch.bool)
    wanted[chunk_M[chosen]] = True
    kept_M = wanted[chunk_M]
    index = (kept_M.cumsum(0) - 1)[chosen].to(chosen_PN.device)
    return [h for h, want in zip(history, wanted.tolist(), strict=True) if want], index


def _pose_distance(poses_PM44: Tensor, target_P44: Tensor) -> Tensor:
    """How far views differ in position and yaw, in place of field-of-view overlap; (P, M)."""
    motion = level_motion(target_P44[:, None].expand_as(poses_PM44), poses_PM44)
    return motion[..., :2].norm(dim=-1) / MEMORY_MOVE + motion[..., 2].abs() / MEMORY_TURN_DEG


def intrinsics() -> Tensor:
    """The engine's pinhole, (4,): fx, fy, cx, cy over width and height."""
    return torch.tensor(INTRINSICS)


def shipped_weights() -> Path:
    """The folder of weights inside the package."""
    return Path(str(resources.files("worldcompass.worlds.doom") / "weights"))


def load_doom_world(folder: Path | None = None, device: str | torch.device = "cpu") -> DoomWorld:
    """The embedded world with the weights of the package, or those of a folder.

    Post-training leaves the autoencoder alone: a folder without one takes the package's.

    Raises:
        UserError: when the files are missing, of another version or of another shape.
    """
    autoencoder, net = Autoencoder(), DoomTransformer()
    for module, name in ((autoencoder, AUTOENCODER_FILE), (net, WORLD_FILE)):
        own = folder is not None and (name == WORLD_FILE or (folder / name).exists())
        base = folder if own and folder is not None else shipped_weights()
        module.load_state_dict(read_weights(base / name, module.state_dict()))
    return DoomWorld(autoencoder.to(device), net.to(device))


def read_weights(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a safetensors file in the dtype of ``expected``.

    Raises:
        UserError: when the file is not there, not safetensors, of another version or for another network.
    """
    if not path.is_file():
        raise UserError(f"no weights at {path}: expected a file made by 'worldcompass doom pretrain'")
    try:
        with safe_open(path, "pt") as file:
            version = (file.metadata() or {}).get("version")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as why:
        raise UserError(
            f"{path} is not a safetensors file ({why}): expected weights of the Doom world"
        ) from why
    if version != WEIGHTS_VERSION:
        raise UserError(
            f"{path} holds weights of version {version}, expected {WEIGHTS_VERSION}: pretrain them again"
        )
    wrong = [n for n in expected if n not in found or found[n].shape != expected[n].shape]
    if wrong or len(found) != len(expected):
        raise UserError(
            f"{path} belongs to another network: {len(wrong)} tensors missing or of another shape"
        )
    return {name: found[name].to(value.dtype) for name, value in expected.items()}
