"""Memory of a world's calls, traced with or without data.

No formulas are involved. The adapter's own code runs on tensors with shapes and storages but no data, and every new
storage counts while it is alive. Types and kernels are CUDA's (``devices.cuda``) unless a job says otherwise.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from worldcompass.devices.autocast import in_bf16
from worldcompass.devices.cuda import as_on_cuda
from worldcompass.seeding import generator_for
from worldcompass.world import Context, WorldModel

SIGMA = 0.7  # any noise level: memory does not depend on it
_DEVICE = torch.ops.prim.device.default  # asked more often than anything is computed; it makes no tensor


class LiveBytes(TorchDispatchMode):
    """Counts the live bytes of storages made inside the block; older storages do not count.

    It cannot see the work space inside a kernel, or memory that an allocator adds or caches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, then count its new storages."""
        kwargs = kwargs or {}
        if func is _DEVICE:
            return func(*args, **kwargs)
        self._notice((args, tuple(kwargs.values())), made=False)
        result = func(*args, **kwargs)
        self._notice((result,), made=True)
        return result

    def above(self) -> int:
        """The peak since the last call, above the bytes alive now; starts a new peak."""
        above, self.peak = self.peak - self.now, self.now
        return above

    def _notice(self, values: Sequence[Any], made: bool) -> None:
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self._sizes:
                self._sizes[key] = storage.nbytes() if made else 0
                self.now += self._sizes[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among an operation's arguments or results, where only lists and tuples hold others."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@dataclass(frozen=True)
class Traced:
    """Bytes of the calls of one training step; every peak is measured above the bytes that stay alive after it."""

    prefix: int
    """State of the pasts while their chunk is imagined and trained: keys, values, finished latents."""
    attend: int
    """Peak while the prefix is made."""
    imagine: int
    """Peak of one denoising step of all candidates."""
    decode: int
    """Peak of decoding all candidates."""
    update: int
    """Peak of the forward and backward pass of one micro-batch, without gradients of weights."""

    def extended(self, deeper: Traced, blocks: int) -> Traced:
        """The bytes with ``blocks`` more blocks, by extrapolation from ``deeper``, which has one more block.

        No part is below zero, which a small network's rounding of storages may extrapolate to.
        Decoding does not depend on the number of blocks: its bytes are those of this trace; ``deeper`` can skip it.
        """
        pairs = zip(astuple(self), astuple(deeper), strict=True)
        whole = Traced(*(max(0, shallow + blocks * (deep - shallow)) for shallow, deep in pairs))
        return replace(whole, decode=self.decode)


@dataclass(frozen=True)
class Job:
    """Sizes of the traced training step."""

    begin: Callable[[WorldModel[Any], int], Context]
    """Starts the given number of pasts."""
    num_chunks: int
    """Finished chunks before the trained one."""
    pasts: int
    candidates: int
    """Total over all pasts."""
    micro_rows: int
    """Rows of one forward and backward pass."""
    autocast_bf16: bool = False
    on_cuda: bool = True
    """Whether to use CUDA's types and kernels instead of the CPU's."""
    decodes: bool = True
    """Whether to decode the candidates, which is the slowest part of a trace."""


def trace_without_data(world: WorldModel[Any], modules: Sequence[nn.Module], job: Job) -> Traced:
    """``trace`` a world whose ``modules`` are on the meta device, without allocating any memory."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in modules:
            without_data(module)
        return trace(world, job)


def trace(world: WorldModel[Any], job: Job) -> Traced:
    """Run the calls of one training step on zeros and count the bytes that they use."""
    with as_on_cuda() if job.on_cuda else nullcontext(), LiveBytes() as live:
        return metered(world, job, live, "cpu")


class Meter(Protocol):
    """Reads memory: ``LiveBytes``, or a GPU's own statistics."""

    @property
    def now(self) -> int:
        """Bytes alive, above those at the start."""
        ...

    def above(self) -> int:
        """The peak since the last call, above the bytes alive now; starts a new peak."""
        ...


def metered(world: WorldModel[Any], job: Job, live: Meter, device: str) -> Traced:
    """The calls of one training step on zeros of ``device``, with their bytes by a meter; see ``Traced``."""
    with torch.device(device):
        return _metered(world, job, live, torch.device(device).type)


def _metered(world: WorldModel[Any], job: Job, live: Meter, kind: str) -> Traced:
    length = world.spec.chunk_lengths[0]
    channels, height, width = world.spec.latent_shape
    actions = world.spec.actions.commanded(torch.zeros(job.pasts, length, dtype=torch.long))

    def zeros(rows: int) -> Tensor:
        return torch.zeros(rows, channels, length, height, width)

    def autocast() -> torch.autocast:
        return in_bf16(kind, job.autocast_bf16)

    def predict(rows: int) -> Tensor:
        return world.predict_clean(zeros(rows), torch.full((rows,), SIGMA), actions, context)

    before = live.now
    # One context over all of it, as in a training step: copies of weights that autocast kept would count, too.
    with torch.no_grad(), autocast():
        context = job.begin(world, job.pasts)
        for _ in range(job.num_chunks):
            context = world.remember(context, zeros(job.pasts), actions)
        live.above()
        generators = [generator_for("trace", past) for past in range(job.pasts)]
        context = world.attend(context, actions, generators)
        prefix, attend = live.now - before, live.above()
        clean = predict(job.candidates)
        imagine = live.above()
        if job.decodes:
            world.decode(clean, context)
        decode = live.above()
    _with_gradients(world.net)
    with autocast():
        predicted = predict(job.micro_rows)
    predicted.square().sum().backward()
    update = live.above()
    return Traced(prefix, attend, imagine, decode, update)


def _with_gradients(net: nn.Module) -> None:
    """Give trained parameters gradients to add to, as most micro-batches of an update find them."""
    for parameter in net.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def without_data(module: nn.Module) -> None:
    """Replace parameters and buffers on the meta device by ones that appear to be on the CPU."""
    for part in module.modules():
        for name, p in list(part._parameters.items()):
            if p is not None:
                setattr(part, name, nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad))
        for name, b in list(part._buffers.items()):
            if b is not None:
                setattr(part, name, torch.empty(b.shape, dtype=b.dtype))
