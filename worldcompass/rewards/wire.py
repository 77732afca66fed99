"""How a group travels to a critic in another process: one safetensors body there, one JSON object back."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worldcompass.geometry import NUM_ACTIONS
from worldcompass.types import Actions, Group, Scores, Truth

VERSION = 1
MAX_BYTES = 512 * 2**20  # of one group: 12 candidates of 16 frames at 480x832 are 230 MB
_FACTS = "facts"


class WireError(ValueError):
    """What came over the wire is not what was agreed."""


def pack_group(group: Group) -> bytes:
    """Pixels, commands, those before them and the engine's truth where there are any."""
    facts = {
        "version": VERSION,
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
    for part, held in (
        ("actions", group.actions),
        ("past_actions", group.past_actions),
        ("truth", group.truth),
    ):
        if held is not None:
            tensors |= {f"{part}/{name}": tensor for name, tensor in vars(held).items()}
    # Clones: safetensors refuses tensors that share memory, as a first frame does with its past.
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def unpack_group(body: bytes) -> Group:
    """The inverse of ``pack_group``.

    Raises:
        WireError: when the body is no group of this version.
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
        group = Group(
            actions=Actions(**parts["actions"]),
            past_actions=Actions(**parts["past_actions"]) if "past_actions" in parts else None,
            truth=Truth(**parts["truth"]) if "truth" in parts else None,
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
        WireError: for another number of scores, or scores that are not finite.
    """
    try:
        values, valid = answer["values"], answer["valid"]
        if not len(values) == len(valid) == count:
            raise WireError(f"expected {count} scores, got {len(values)} with {len(valid)} marks of validity")
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise WireError("a score is not finite: a critic that cannot tell must abstain")
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
        if group.truth.labels_M.shape != (latents,) or group.truth.world_from_camera_M44.shape != (
            latents,
            4,
            4,
        ):
            raise WireError(f"expected the truth of {latents} latents, got {len(group.truth.labels_M)}")


def _check_pixels(name: str, frames: Tensor, axes: int, size: torch.Size) -> None:
    if frames.ndim != axes or frames.dtype != torch.uint8 or frames.shape[-3:] != size or size[0] != 3:
        raise WireError(
            f"{name} is {frames.dtype} {tuple(frames.shape)}, expected uint8, {axes} axes, the last {tuple(size)}"
        )


def _check_actions(name: str, actions: Actions) -> None:
    labels, latents = actions.labels_K, actions.labels_K.numel()
    shapes = (labels.shape, actions.world_from_camera_K44.shape, actions.intrinsics_K4.shape)
    if shapes != ((latents,), (latents, 4, 4), (latents, 4)) or labels.dtype != torch.int64:
        raise WireError(f"{name} has the shapes {shapes}, expected those of {latents} latents")
    if latents and not 0 <= int(labels.min()) <= int(labels.max()) < NUM_ACTIONS:
        raise WireError(f"{name} holds labels outside of 0..{NUM_ACTIONS - 1}")
