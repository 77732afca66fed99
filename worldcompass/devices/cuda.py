"""Whether tensors are on CUDA, a stand-in that makes CPU tensors behave so, and the GPU of a process.

The stand-in changes decisions, not arithmetic: the types that autocast chooses, and the kernels of code that asks
``on_cuda``. Use it on tensors without data, whose memory and types are then those of a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from worldcompass.devices.autocast import cuda_policy
from worldcompass.errors import UserError

_standing_in: ContextVar[bool] = ContextVar("standing_in_for_cuda", default=False)


def on_cuda(tensor: Tensor) -> bool:
    """Whether a tensor is on CUDA, or stands in for one that is."""
    return tensor.is_cuda or _standing_in.get()


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Inside the block CPU tensors get CUDA's types under autocast, and code chooses CUDA's kernels for them."""
    token = _standing_in.set(True)
    try:
        with cuda_policy():
            yield
    finally:
        _standing_in.reset(token)


def device_of_rank(device: str, count: int | None = None) -> str:
    """The device of this process: ``cuda`` with this rank's own index, anything else unchanged.

    Libraries need the index: ``cuda`` alone means GPU 0 to some (safetensors), the current GPU to others.

    Args:
        device: as the user named it.
        count: GPUs that this process sees; asked from PyTorch when None. With one, each rank has its own.

    Raises:
        UserError: when this rank has no GPU of its own, or the environment does not say which.
    """
    if not device.startswith("cuda"):
        return device
    rank = _number("LOCAL_RANK")
    if rank is None:
        if device == "cuda" and (_number("WORLD_SIZE") or 1) > 1:
            count = torch.cuda.device_count() if count is None else count
            if count > 1:
                raise UserError(
                    f"WORLD_SIZE is {_number('WORLD_SIZE')} and LOCAL_RANK is not set, so that every process would"
                    f" take GPU 0 of {count}: set LOCAL_RANK, or start with --nproc or torchrun"
                )
        return device
    if device != "cuda":
        if (_number("LOCAL_WORLD_SIZE") or 1) > 1 and device != device_of_rank("cuda", count):
            raise UserError(
                f"several processes cannot share {device}: use --device cuda, which gives each its own"
            )
        return device
    count = torch.cuda.device_count() if count is None else count
    if count == 1:
        return "cuda:0"
    if rank >= count:
        raise UserError(
            f"process {rank} of this machine has no GPU, PyTorch sees {count}: start at most {count} processes"
        )
    return f"cuda:{rank}"


def _number(name: str) -> int | None:
    """A whole number of the environment; None where it is not set or empty."""
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise UserError(
            f"{name} is {text}: expected a whole number; unset it, or start with --nproc or torchrun"
        )
    return int(text) if text else None
