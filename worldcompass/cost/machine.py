"""What one machine really does, before a day is spent: kernels, types, memory against the plan, links, disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.cost.plan import Needs, largest_micro_batch
from worldcompass.cost.trace import Job, LiveBytes, Traced, metered, trace_without_data
from worldcompass.devices.attention import cuda_kernel
from worldcompass.devices.autocast import in_bf16
from worldcompass.devices.cuda import as_on_cuda
from worldcompass.parallel.cpus import usable_cpus
from worldcompass.runs.atomic import remove
from worldcompass.runs.requirements import GIB
from worldcompass.seeding import seed_globals

Verdict = Literal["good", "bad", "note"]
DEPTH = 1  # blocks of real size that are run
# Largest excess over the traced memory, by part. Decoding also takes the convolutions' work space, which no trace
# sees: on an H200 it took 17% more (docs/results/gpu_h200.json).
NEAR = {"decode": 0.25}
NEAR_ELSEWHERE = 0.1
SIDE = {"cuda": 8192, "cpu": 512}  # of the square matrices whose product is timed
REPEATS = 10
DISK_BYTES = 1 << 28
LINK_BYTES = 1 << 28
SLOW_DISK = 0.2  # GB/s; a checkpoint of the 8B's full run would take minutes
SLOW_LINK = 10.0  # GB/s between GPUs


@dataclass(frozen=True)
class Finding:
    """One line of the page."""

    what: str
    found: str
    verdict: Verdict = "note"


class CudaBytes:
    """Reads PyTorch's statistics of one GPU, and the time of every part."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, list[float]()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        self._start, self._last = torch.cuda.memory_allocated(device), time.perf_counter()

    @property
    def now(self) -> int:
        """See ``Meter``."""
        return torch.cuda.memory_allocated(self.device) - self._start

    def above(self) -> int:
        """See ``Meter``."""
        torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        above = torch.cuda.max_memory_allocated(self.device) - torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._last = time.perf_counter()
        return above


def survey(needs: Needs | None, device: str, folder: Path, ranks: int = 1) -> Iterator[Finding]:
    """Every finding about this machine, one after another, in about a minute.

    Args:
        needs: of the recipe whose block is run; none is run without it.
        device: the GPU to ask, or ``cpu``.
        folder: where a run would write.
        ranks: GPUs whose links are measured.
    """
    on_gpu = device.startswith("cuda")
    yield from _hardware(device)
    yield from _types(device)
    yield _matrix_rate(device)
    if needs is not None and on_gpu:
        yield from examine_block(needs, device)
    elif needs is not None:
        yield Finding(
            "one block of real size", "not run: it would take hours on a CPU; see worldcompass plan"
        )
    yield _links(ranks) if ranks > 1 else Finding("links between GPUs", f"{ranks} device: nothing to measure")
    yield from _disk(folder)


def _hardware(device: str) -> Iterator[Finding]:
    if not device.startswith("cuda"):
        yield Finding("device", f"CPU with {usable_cpus()} cores: recipes :smoke and the embedded worlds")
        return
    facts = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    yield Finding("device", f"{facts.name}, compute capability {facts.major}.{facts.minor}")
    share = free / total
    text = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free"
    yield Finding("memory", text, "good" if share > 0.9 else "bad")
    flash = facts.major >= 8
    yield Finding("bfloat16 and flash", "supported" if flash else "too old", "good" if flash else "bad")


def _types(device: str) -> Iterator[Finding]:
    """The types under autocast, and the kernel of attention; of CUDA's policy where there is no GPU."""
    on_gpu = device.startswith("cuda")
    kind = "cuda" if on_gpu else "cpu"
    x = torch.ones(2, 64, 128, dtype=torch.bfloat16, device=device)

    def of_norms() -> str:
        with in_bf16(kind):
            norm, linear = functional.rms_norm(x, (128,)), functional.linear(x, x[0])
        return f"rms_norm {_name(norm)}, linear {_name(linear)}"

    if on_gpu:
        yield Finding("types under autocast", of_norms())
    else:
        with as_on_cuda():
            yield Finding("types under CUDA's autocast", f"{of_norms()} (by PyTorch's policy, not run)")
    q = torch.randn(1, 2, 256, 128, dtype=torch.bfloat16, device=device)
    chosen = cuda_kernel(q, q, q)
    yield _flash(q) if on_gpu else Finding("kernel of attention", f"{chosen} (by the rule, not run)")


def _flash(q: Tensor) -> Finding:
    what = "kernel of attention"
    try:
        found = torch.ops.aten._scaled_dot_product_flash_attention.default(q, q, q)[0]
    except RuntimeError as why:
        first_line = str(why).partition("\n")[0]
        return Finding(what, f"flash refuses bfloat16 with heads of 128 ({first_line})", "bad")
    plain = q.double().cpu()
    exact = functional.scaled_dot_product_attention(plain, plain, plain)
    error = float((found.double().cpu() - exact).norm() / exact.norm())
    return Finding(what, f"flash, {error:.1e} off the exact result", "good" if error < 1e-2 else "bad")


def _matrix_rate(device: str) -> Finding:
    kind = torch.device(device).type
    dtype = torch.bfloat16 if kind == "cuda" else torch.float32
    return Finding(
        f"products in {str(dtype).removeprefix('torch.')}", f"{matrix_rate(device, dtype) / 1e12:.2f} TFLOP/s"
    )


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a large product, the best of several."""
    side = SIDE[torch.device(device).type]
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(seconds(lambda: a @ a, device) for _ in range(REPEATS))


def seconds(call: Callable[[], Any], device: str) -> float:
    """Duration of a call until the device has finished."""
    _wait(device)
    begun = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def job_of(needs: Needs, pasts: int = 1) -> Job:
    """The sizes of a recipe's step on one GPU."""
    config = needs.config
    return Job(
        needs.begin,
        needs.num_chunks,
        pasts,
        pasts * config.sampling.group_size,
        largest_micro_batch(config, pasts),
        config.optimiser.autocast_bf16,
    )


def compared(needs: Needs, depth: int, job: Job, device: str) -> tuple[Traced, Traced, list[float]]:
    """Bytes of a step of ``depth`` real blocks with random weights: as planned, as measured, and seconds.

    On a CPU both use its own types and kernels, and no seconds are taken.
    """
    on_gpu = device.startswith("cuda")
    job = replace(job, on_cuda=on_gpu)
    world, modules = needs.world_of_depth(depth)
    planned = trace_without_data(world, modules, job)
    world, modules = needs.world_of_depth(depth)
    for module in modules:
        with_random_weights(module, device)
    if not on_gpu:
        with LiveBytes() as live:
            return planned, metered(world, job, live, device), []
    meter = CudaBytes(device)
    return planned, metered(world, job, meter, device), meter.seconds


@torch.no_grad()
def with_random_weights(module: nn.Module, device: str) -> None:
    """Allocate a module from the meta device, with numbers that keep activations finite."""
    module.to_empty(device=device)
    seed_globals(0)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(1.0)
    for buffer in module.buffers():
        buffer.zero_()


def examine_block(needs: Needs, device: str) -> Iterator[Finding]:
    """Compare one block of real size with its plan, and time its phases."""
    try:
        planned, measured, taken = compared(needs, DEPTH, job_of(needs), device)
    except torch.OutOfMemoryError as why:
        yield Finding("one block of real size", f"out of memory: {str(why).partition('. ')[0]}", "bad")
        return
    for field, plan, real in zip(fields(Traced), astuple(planned), astuple(measured), strict=True):
        near = NEAR.get(field.name, NEAR_ELSEWHERE)
        verdict: Verdict = "good" if real <= (1 + near) * plan + (1 << 24) else "bad"
        yield Finding(
            f"{field.name}, {DEPTH} block", f"{real / GIB:.2f} GiB, planned {plan / GIB:.2f}", verdict
        )
    names = ("begin and remember", "attend", "one denoising step", "decode", "an update")
    for name, duration in zip(names, taken, strict=True):
        yield Finding(f"time to {name}, {DEPTH} block", f"{duration:.3f} s")


def _links(ranks: int) -> Finding:
    """All-reduce between processes, each with its own GPU."""
    import torch.multiprocessing as mp
    from torch.multiprocessing.spawn import spawn

    with mp.Manager() as manager:
        rates = manager.list()
        spawn(_reduce, args=(ranks, _free_port(), rates), nprocs=ranks)
        rate = min(rates)
    verdict: Verdict = "good" if rate > SLOW_LINK else "bad"
    return Finding(f"all-reduce between {ranks} GPUs (NCCL)", f"{rate:.1f} GB/s", verdict)


def _reduce(rank: int, ranks: int, port: int, rates: Any) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
    }
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    x = torch.ones(LINK_BYTES // 4, device="cuda")
    dist.all_reduce(x)  # builds the rings
    taken = min(seconds(lambda: dist.all_reduce(x), f"cuda:{rank}") for _ in range(REPEATS))
    rates.append(2 * (ranks - 1) / ranks * LINK_BYTES / taken / 1e9)  # bytes that every link carries
    dist.destroy_process_group()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _disk(folder: Path) -> Iterator[Finding]:
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    yield Finding(f"disk of {folder}", f"{shutil.disk_usage(folder).free / 1e9:.0f} GB free")
    path, block = folder / ".disk_speed", os.urandom(1 << 24)
    try:
        begun = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(DISK_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        write = DISK_BYTES / (time.perf_counter() - begun) / 1e9
    finally:
        remove(path)
    yield Finding("writing", f"{write:.2f} GB/s", "good" if write > SLOW_DISK else "bad")


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
