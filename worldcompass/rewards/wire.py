"""The format between a trainer and a critic in another process: a safetensors body out, a JSON object back."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worldcompass.geometry import NUM_ACTIONS
from worldcompass.types import Actions, CameraMoves, ControlValues, Group, Scores, Truth

VERSION = 2
MAX_BYTES = 512 * 2**20  # of one group: 12 candidates of 16 frames at 480x832 are 230 MB
_FACTS = "facts"
_KINDS: dict[str, type[CameraMoves] | type[ControlValues]] = {
    "cameras": CameraMoves,
    "controls": ControlValues,
}


class WireError(ValueError):
    """A received body does not follow the format."""


def pack_group(group: Group) -> bytes:
    """The group as safetensors: frames and commands, with past commands and the engine's truth if it has them."""
    facts = {
        "version": VERSION,
        "actions": next(kind for kind, of in _KINDS.items() if isinstance(group.actions, of)),
        "frames_per_latent": group.frames_per_latent,
        "caption": group.caption,
        "instruction": group.instruction,
    }
    tensors = {
        "frames_GF3hw": group.frames_GF3hw,
        "past_frames_F3hw": group.past_frames_F3hw,
        "first_frame_3hw": group.first_frame_3hw,
        _FACTS: torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8),
    }
    parts = [("actions", group.actions), ("past_actions", group.past_actions)]
    if group.truth is not None:
        tensors["truth/frames_F3hw"] = group.truth.frames_F3hw
        parts.append(("truth", group.truth.actions))
    for part, held in parts:
        if held is not None:
            tensors |= {f"{part}/{name}": tensor for name, tensor in vars(held).items()}
    # Clones: safetensors refuses tensors that share memory, as a first frame does with its past.
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def unpack_group(body: bytes) -> Group:
    """The inverse of ``pack_group``.

    Raises:
        WireError: when the body is not a group of this version.
    """
    try:
        tensors = load(body)
        facts = json.loads(bytes(tensors.pop(_FACTS).tolist()))
        if facts["version"] != VERSION:
            raise WireError(f"the group has wire version {facts['version']}, expected {VERSION}")
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, field = name.rpartition("/")
            parts.setdefault(part, {})[field] = tensor
        kind, truth = _KINDS[facts["actions"]], parts.get("truth")
        group = Group(
            actions=kind(**parts["actions"]),
            past_actions=kind(**parts["past_actions"]) if "past_actions" in parts else None,
            truth=None if truth is None else Truth(truth.pop("frames_F3hw"), kind(**truth)),
            frames_per_latent=int(facts["frames_per_latent"]),
            caption=str(facts["caption"]),
            instruction=str(facts.get("instruction", "")),
            frames_GF3hw=parts[""]["frames_GF3hw"],
            past_frames_F3hw=parts[""]["past_frames_F3hw"],
            first_frame_3hw=parts[""]["first_frame_3hw"],
        )
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"expected a group as safetensors: {error}") from error
    _check_shapes(group)
    return group


def pack_scores(name: str, scores: Scores) -> dict[str, Any]:
    """The JSON answer."""
    return {"critic": name, "values": scores.values_G.tolist(), "valid": scores.valid_G.tolist()}


def unpack_scores(answer: Any, count: int) -> Scores:
    """The inverse of ``pack_scores``, for a group of ``count`` candidates.

    Raises:
        WireError: for a wrong number of scores, or scores that are not finite.
    """
    try:
        values, valid = answer["values"], answer["valid"]
        if not len(values) == len(valid) == count:
            raise WireError(f"expected {count} scores, got {len(values)} with {len(valid)} marks of validity")
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise WireError("a score is not finite: a critic that cannot score a candidate must abstain")
        return Scores(torch.tensor(values, dtype=torch.float32), torch.tensor(valid, dtype=torch.bool))
    except (KeyError, TypeError) as error:
        raise WireError(f"expected values and valid, got {str(answer)[:200]}") from error


def _check_shapes(group: Group) -> None:
    size = group.frames_GF3hw.shape[-3:]
    for name, axes in (("frames_GF3hw", 5), ("past_frames_F3hw", 4), ("first_frame_3hw", 3)):
        _check_pixels(name, getattr(group, name), axes, size)
    latents, per_latent = len(group.actions), group.frames_per_latent
    _check_actions("actions", group.actions)
    if group.past_actions is not None:
        _check_actions("past_actions", group.past_actions)
    num_frames = group.frames_GF3hw.shape[1]
    # A video's first latent has a number of frames of its own.
    of_first = num_frames - per_latent * (latents - 1)
    fits = of_first == per_latent or (of_first >= 1 and not len(group.past_frames_F3hw))
    if latents < 1 or per_latent < 1 or not fits or not len(group.frames_GF3hw):
        raise WireError(
            f"expected candidates of {latents} latents of {per_latent} frames, got {num_frames} frames of each of "
            f"{len(group.frames_GF3hw)}"
        )
    if group.truth is not None:
        _check_pixels("truth/frames_F3hw", group.truth.frames_F3hw, 4, size)
        _check_actions("truth", group.truth.actions)
        if len(group.truth.actions) != latents:
            raise WireError(f"expected the truth of {latents} latents, got {len(group.truth.actions)}")


def _check_pixels(name: str, frames: Tensor, axes: int, size: torch.Size) -> None:
    if frames.ndim != axes or frames.dtype != torch.uint8 or frames.shape[-3:] != size or size[0] != 3:
        raise WireError(
            f"{name} is {frames.dtype} {tuple(frames.shape)}, expected uint8, {axes} axes, the last {tuple(size)}"
        )


def _check_actions(name: str, actions: Actions) -> None:
    if isinstance(actions, ControlValues):
        values = actions.values_KTA
        if values.ndim != 3 or values.dtype != torch.float32 or not bool(values.isfinite().all()):
            raise WireError(
                f"{name} is {values.dtype} {tuple(values.shape)}, expected finite float32 (K, T, A)"
            )
        return
    moves = actions.cameras
    labels, latents = moves.labels_K, moves.labels_K.numel()
    shapes = (labels.shape, moves.world_from_camera_K44.shape, moves.intrinsics_K4.shape)
    if shapes != ((latents,), (latents, 4, 4), (latents, 4)) or labels.dtype != torch.int64:
        raise WireError(f"{name} has the shapes {shapes}, expected those of {latents} latents")
    if latents and not 0 <= int(labels.min()) <= int(labels.max()) < NUM_ACTIONS:
        raise WireError(f"{name} holds labels outside of 0..{NUM_ACTIONS - 1}")
