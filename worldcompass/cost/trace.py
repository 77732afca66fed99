"""How much memory a world's calls take, traced with or without data.

Nothing is guessed from formulas: the adapter's own code runs on tensors that have shapes and storages but no data,
and every storage that is made is counted while it lives.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from worldcompass.seeding import generator_for
from worldcompass.world import Context, WorldModel

SIGMA = 0.7  # any noise level: memory does not depend on it


class LiveBytes(TorchDispatchMode):
    """Counts the storages that are made inside and still alive; what was there before counts nothing.

    Work space inside a kernel is not seen, nor is what an allocator rounds up or keeps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, then count what it made."""
        self._notice((args, kwargs), made=False)
        result = func(*args, **(kwargs or {}))
        self._notice(result, made=True)
        return result

    def above(self) -> int:
        """The peak since the last call, over what is alive now; the next peak starts from here."""
        above, self.peak = self.peak - self.now, self.now
        return above

    def _notice(self, tree: Any, made: bool) -> None:
        for tensor in tree_iter(tree):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self._sizes:
                self._sizes[key] = storage.nbytes() if made else 0
                self.now += self._sizes[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@dataclass(frozen=True)
class Traced:
    """Bytes of the calls of one training step; every peak is over what stays alive after it."""

    prefix: int
    """Kept of the pasts while their chunk is imagined and trained: keys, values, finished latents."""
    attend: int
    """Peak of making that."""
    imagine: int
    """Peak of one denoising step of all candidates."""
    decode: int
    update: int
    """Peak of the forward and backward pass of one micro-batch, gradients of weights left out."""

    def extended(self, deeper: Traced, blocks: int) -> Traced:
        """The same with ``blocks`` blocks more, of which each adds as much as the one that ``deeper`` has more.

        Decoding, which knows no blocks, is taken from this one and need not be traced for the other.
        """
        pairs = zip(astuple(self), astuple(deeper), strict=True)
        whole = Traced(*(shallow + blocks * (deep - shallow) for shallow, deep in pairs))
        return replace(whole, decode=self.decode)


@dataclass(frozen=True)
class Job:
    """What of a training step is traced."""

    begin: Callable[[WorldModel[Any], int], Context]
    """Starts that many pasts."""
    num_chunks: int
    """Finished before the chunk of interest."""
    pasts: int
    candidates: int
    """Of all pasts together."""
    micro_rows: int
    """Rows of one forward and backward pass."""
    autocast_bf16: bool = False
    decodes: bool = True
    """Whether the candidates are decoded, the slowest part to trace."""


def trace_without_data(world: WorldModel[Any], modules: Sequence[nn.Module], job: Job) -> Traced:
    """``trace`` of a world whose ``modules`` were made on the meta device; nothing is allocated."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in modules:
            _without_data(module)
        return trace(world, job)


def trace(world: WorldModel[Any], job: Job) -> Traced:
    """Run the calls of one training step on zeros and count what they keep and what they take."""
    length = world.spec.chunk_lengths[0]
    channels, height, width = world.spec.latent_shape
    actions = world.spec.actions.commanded(torch.zeros(job.pasts, length, dtype=torch.long))

    def zeros(rows: int) -> Tensor:
        return torch.zeros(rows, channels, length, height, width)

    def predict(rows: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=job.autocast_bf16):
            return world.predict_clean(zeros(rows), torch.full((rows,), SIGMA), actions, context)

    with LiveBytes() as live:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=job.autocast_bf16):
            context = job.begin(world, job.pasts)
            for _ in range(job.num_chunks):
                context = world.remember(context, zeros(job.pasts), actions)
            live.above()
            generators = [generator_for("trace", past) for past in range(job.pasts)]
            context = world.attend(context, actions, generators)
        prefix, attend = live.now, live.above()
        with torch.no_grad():
            clean = predict(job.candidates)
            imagine = live.above()
            if job.decodes:
                world.decode(clean, context)
        decode = live.above()
        for _ in range(2):  # the second finds the gradients of the first, as most micro-batches do
            predict(job.micro_rows).square().sum().backward()
        update = live.above()
    return Traced(prefix, attend, imagine, decode, update)


def _without_data(module: nn.Module) -> None:
    """Replace parameters and buffers of the meta device by ones that pass for those of a CPU."""
    for part in module.modules():
        for name, p in list(part._parameters.items()):
            if p is not None:
                setattr(part, name, nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad))
        for name, b in list(part._buffers.items()):
            if b is not None:
                setattr(part, name, torch.empty(b.shape, dtype=b.dtype))
