"""All that a lent GPU should tell, in parts of which each is kept: at most nine minutes on one H200.

``python benchmarks/gpu.py --out runs/gpu`` runs every part that has no result yet, each in a process of its own, so
that one that fails or runs out of memory costs no other, and the same command continues. Results are JSON files.
``--parts`` names some of them. The plans need no GPU: make them before a lease, in the same folder. ``--tiny`` runs
the same code at the smoke recipes' sizes on a CPU.

| part | what it measures |
|---|---|
| attention | flash kernels against plain attention in float32, with gradients; at the real size their rate |
| plan_8b, plan_5b | no GPU: planned bytes and counted operations of the step that the next row measures |
| worldplay_8b, worldplay_5b | a step with adapters at full size, random weights: bytes and seconds of its calls |
| compile | a denoising step of compiled blocks against plain ones |
| sharded | a step with sharded weights on one rank against the same without |
| demo | a step of the embedded world's recipe, part by part |
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from worldcompass.cost.machine import CudaBytes, job_of, matrix_rate, seconds, with_random_weights
from worldcompass.cost.plan import Needs, count_work, make_plan
from worldcompass.cost.trace import Job, LiveBytes, metered
from worldcompass.devices.autocast import in_bf16
from worldcompass.recipes.load import load_recipe
from worldcompass.runs.atomic import write_json
from worldcompass.runs.requirements import GIB
from worldcompass.worlds.open import attention
from worldcompass.worlds.open.attention import attend_after, plain_attention

MINUTES = 9.0
AIM = 0.6  # share of the measured rate of matrix products
CANDIDATES = 4  # of the measured step; decoding the recipe's twelve would take a minute and tell nothing more
DTYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}
Result = Mapping[str, Any]


def device_of(tiny: bool) -> str:
    return "cpu" if tiny else "cuda:0"


def attention_part(tiny: bool) -> Result:
    """Errors of output and gradients relative to float32, and the rate at the real size of the 8B."""
    device = device_of(tiny)
    kind = torch.device(device).type
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int, dtype: torch.dtype = DTYPE[kind]) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    heads, head, own, past = (2, 8, 6, 9) if tiny else (4, 128, 512, 2048)
    found = [random(2, 3, heads, own, head).requires_grad_() for _ in "qkv"]
    memory = [random(2, heads, past, head).requires_grad_() for _ in "kv"]
    exact = [t.detach().float().requires_grad_() for t in (*found, *memory)]
    weights = random(2, 3, heads, own, head, dtype=torch.float32)
    seen = attend_after(*found, [(memory[0], memory[1])])
    q, k, v, past_k, past_v = exact
    rows = [
        plain_softmax(q[:, b], torch.cat([past_k, k[:, b]], 2), torch.cat([past_v, v[:, b]], 2))
        for b in range(3)
    ]
    expected = torch.stack(rows, 1)
    grads = torch.autograd.grad((seen.float() * weights).sum(), [*found, *memory])
    true = torch.autograd.grad((expected * weights).sum(), exact)
    errors = {
        name: relative(a, b)
        for name, a, b in zip(
            ("output", "q", "k", "v", "past k", "past v"), (seen, *grads), (expected, *true), strict=True
        )
    }
    out, _, _ = attention._kernel(*(t[:, 0] for t in found))
    errors["kernel against the spelled-out one"] = relative(
        out, plain_attention(*(t[:, 0] for t in found))[0]
    )
    size = (12, 6, 9) if tiny else (12, 4 * 30 * 52, 20 * 30 * 52 + 1985)
    real = [random(2, size[0], heads if tiny else 16, size[1], head) for _ in "qkv"]
    keys = [random(2, heads if tiny else 16, size[2], head) for _ in "kv"]
    with torch.no_grad():
        attend_after(*real, [(keys[0], keys[1])])
        taken = min(seconds(lambda: attend_after(*real, [(keys[0], keys[1])]), device) for _ in range(3))
    operations = 4.0 * real[0].numel() * (size[1] + size[2])
    rate = matrix_rate(device, DTYPE[kind])
    return {"errors": errors, "seconds": taken, "share_of_matrix_rate": operations / taken / rate}


def plain_softmax(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).norm() / expected.norm())


def step_of(name: str, tiny: bool) -> tuple[Needs, Job]:
    """The needs of a recipe with ``CANDIDATES``, and the step of them that is planned and measured."""
    recipe = load_recipe(f"{name}:{'smoke' if tiny else 'lora'}")()
    half = CANDIDATES // 2
    needs = replace(
        recipe, config=recipe.config.changed(group_size=CANDIDATES, best=half, worst=half)
    ).needs()
    return needs, replace(job_of(needs, needs.config.sampling.prompts_per_step), on_cuda=not tiny)


def plan_part(name: str) -> Callable[[bool], Result]:
    """What a step should take: bytes as ``worldcompass plan`` traces them, and floating-point operations."""

    def part(tiny: bool) -> Result:
        needs, job = step_of(name, tiny)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            planned, work = make_plan(needs, on_cuda=not tiny).traced, count_work(needs)
        operations = {
            "remember": job.pasts * job.num_chunks * work.decode,
            "attend": job.pasts * work.attend,
            "imagine": job.candidates * work.row,
            "decode": job.candidates * work.decode,
            "update": 2 * job.micro_rows * work.update,
        }
        return {"bytes": vars(planned), "operations": operations}

    return part


def worldplay_part(name: str) -> Callable[[bool], Result]:
    """A step with adapters of the whole network, on random weights: bytes, and seconds of its calls."""

    def part(tiny: bool) -> Result:
        device = device_of(tiny)
        needs, job = step_of(name, tiny)
        if not tiny:  # one block and one chunk load the kernels
            warm = replace(job, num_chunks=1, decodes=False)
            metered(random_world(needs, 1, device), warm, CudaBytes(device), device)
        world = random_world(needs, needs.num_blocks, device)
        if tiny:
            with LiveBytes() as live:
                return {"bytes": vars(metered(world, job, live, device)), "seconds": {}}
        meter = Told(device)
        measured = metered(world, job, meter, device)
        rate = matrix_rate(device, DTYPE["cuda"])
        return {"bytes": vars(measured), "seconds": meter.by_call, "matrix_tflops": rate / 1e12}

    return part


def random_world(needs: Needs, depth: int, device: str) -> Any:
    """A world of some blocks, with random weights made on the device."""
    world, modules = needs.world_of_depth(depth)
    for module in modules:
        with_random_weights(module, device)
    return world


class Told(CudaBytes):
    """Prints each call of ``metered`` when it ends, so that a run cut short has told what it reached."""

    CALLS = ("remember", "attend", "imagine", "decode", "update")

    @property
    def by_call(self) -> dict[str, float]:
        """Seconds of each call."""
        return dict(zip(self.CALLS, self.seconds, strict=False))

    def above(self) -> int:
        """See ``Meter``."""
        above = super().above()
        name, taken = list(self.by_call.items())[-1]
        print(
            f"{name}: {taken:.2f} s, {self.now / GIB:.2f} GiB kept, peak {above / GIB:.2f} above", flush=True
        )
        return above


def compare(out: Path) -> None:
    """Print and keep each measured step against its plan, where the folder has both."""
    for size in ("8b", "5b"):
        files = [out / f"{kind}_{size}.json" for kind in ("plan", "worldplay")]
        if not all(file.exists() for file in files):
            continue
        plan, seen = (json.loads(file.read_text()) for file in files)
        rate = seen.get("matrix_tflops", 0.0) * 1e12
        found: dict[str, dict[str, float | None]] = {
            name: {
                "planned_gib": plan["bytes"][name] / GIB,
                "measured_gib": real / GIB,
                "measured_over_planned": real / plan["bytes"][name] if plan["bytes"][name] else None,
            }
            for name, real in seen["bytes"].items()
        }
        for name, taken in seen["seconds"].items():
            share = plan["operations"][name] / taken / rate
            found.setdefault(name, {}).update(seconds=taken, share_of_matrix_rate=share, aim=AIM)
        for name, row in found.items():
            numbers = (f"{key} {value:.3f}" for key, value in row.items() if value is not None)
            print(f"{size} {name:8} {', '.join(numbers)}", flush=True)
        write_json(out / f"compared_{size}.json", found, indent=1)


def block_step(tiny: bool, depth: int) -> tuple[Any, Any, str]:
    """A network of a few blocks with its denoising step as a call of rows."""
    device = device_of(tiny)
    needs = load_recipe(f"worldplay_8b:{'smoke' if tiny else 'lora'}")().needs()
    world = random_world(needs, depth, device)
    length, (channels, height, width) = world.spec.chunk_lengths[0], world.spec.latent_shape
    with torch.device(device), torch.no_grad(), in_bf16(device[:4].rstrip(":")):
        actions = world.spec.actions.commanded(torch.zeros(1, length, dtype=torch.long))
        context = world.attend(needs.begin(world, 1), actions)

    def predict(rows: int) -> torch.Tensor:
        with torch.device(device), in_bf16(device[:4].rstrip(":")):
            noisy = torch.zeros(rows, channels, length, height, width)
            return world.predict_clean(noisy, torch.full((rows,), 0.7), actions, context)

    return world, predict, device


@torch.no_grad()
def compile_part(tiny: bool) -> Result:
    """Seconds of a step of 12 rows on the first chunk, and the largest difference of the results."""
    world, predict, device = block_step(tiny, 2 if tiny else 8)
    rows = 2 if tiny else 12
    plain = predict(rows)
    before = min(seconds(lambda: predict(rows), device) for _ in range(3))
    begun = time.perf_counter()
    if not tiny:  # a CPU's compiler takes longer than the test may
        for block in world.net.double_blocks:
            block.compile()
    compiled = predict(rows)
    built = time.perf_counter() - begun
    after = min(seconds(lambda: predict(rows), device) for _ in range(3))
    return {
        "plain_seconds": before,
        "compiled_seconds": after,
        "compiling_seconds": built,
        "speedup": before / after,
        "difference": relative(compiled, plain),
    }


def sharded_part(tiny: bool) -> Result:
    """Loss gradients with FSDP2 over one rank, against the same network without it."""
    import torch.distributed as dist

    from worldcompass.parallel.sharding import shard, whole

    world, predict, device = block_step(tiny, 2)

    def step() -> float:
        predict(2).square().mean().backward()
        grads = [p.grad for p in world.net.parameters() if p.grad is not None]
        return float(whole(torch.nn.utils.get_total_norm(grads)))

    plain = step()
    world.net.zero_grad(set_to_none=True)
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
    dist.init_process_group("gloo" if tiny else "cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1)
    try:
        shard(world.net, "cpu" if tiny else "cuda")
        sharded = step()
        world.net.zero_grad(set_to_none=True)
        taken = seconds(step, device)
    finally:
        dist.destroy_process_group()
    return {"plain_norm": plain, "sharded_norm": sharded, "off": abs(sharded / plain - 1), "seconds": taken}


def demo_part(tiny: bool) -> Result:
    """Where the time of one step of the embedded world's recipe goes."""
    from worldcompass.cost.profile import profile

    found = profile(load_recipe("worldplay_5b:smoke" if tiny else "demo")().parts(device_of(tiny)), repeats=1)
    parts = {name: vars(cost) for name, cost in found.parts.items()}
    return {"device": found.device, "seconds": found.seconds, "parts": parts}


PARTS: dict[str, Callable[[bool], Result]] = {
    "attention": attention_part,
    "plan_8b": plan_part("worldplay_8b"),
    "plan_5b": plan_part("worldplay_5b"),
    "worldplay_8b": worldplay_part("worldplay_8b"),
    "worldplay_5b": worldplay_part("worldplay_5b"),
    "sharded": sharded_part,
    "compile": compile_part,
    "demo": demo_part,
}


def run_part(name: str, tiny: bool, out: Path) -> None:
    """Run a part in this process and keep its result."""
    begun = time.perf_counter()
    result = dict(PARTS[name](tiny))
    facts = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() and not tiny else "cpu",
        "seconds_of_part": time.perf_counter() - begun,
    }
    write_json(out / f"{name}.json", facts | result, indent=1)


def run_all(out: Path, tiny: bool, minutes: float, names: Sequence[str] | None = None) -> int:
    """Run those named parts that have no result, while there is time; exit code 1 when one has none."""
    names = list(PARTS) if names is None else names
    until = time.monotonic() + 60 * minutes
    for name in names:
        file, left = out / f"{name}.json", until - time.monotonic()
        if file.exists() or left <= 0:
            print(f"{name}: {'kept' if file.exists() else 'no time left'}", flush=True)
            continue
        command = [sys.executable, __file__, "--part", name, "--out", str(out), *(["--tiny"] if tiny else [])]
        try:
            code = subprocess.run(command, timeout=left).returncode
        except subprocess.TimeoutExpired:
            code = -1
        print(f"{name}: {'done' if file.exists() else f'failed with {code}'}", flush=True)
    compare(out)
    missing = [name for name in names if not (out / f"{name}.json").exists()]
    print(f"{len(names) - len(missing)} of {len(names)} parts in {out}", flush=True)
    return 1 if missing else 0


def names_of_parts(text: str) -> list[str]:
    """The parts named in a list with commas, for argparse."""
    names = text.split(",")
    if unknown := sorted(set(names) - set(PARTS)):
        raise argparse.ArgumentTypeError(
            f"unknown part {unknown[0]!r}: expected some of {', '.join(PARTS)}, separated by commas"
        )
    return names


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="FOLDER")
    parser.add_argument("--part", choices=tuple(PARTS), default=None, help="only this part, in this process")
    parser.add_argument("--parts", type=names_of_parts, default=None, metavar="A,B", help="only these parts")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--tiny", action="store_true", help="the smoke recipes' sizes on a CPU")
    args = parser.parse_args()
    names = [args.part] if args.part else args.parts or list(PARTS)
    needs_gpu = not all(name.startswith("plan_") for name in names)
    if needs_gpu and not args.tiny and not torch.cuda.is_available():
        print(json.dumps({"error": "no GPU: --tiny tries the same on a CPU"}))
        return 2
    if args.part is None:
        return run_all(args.out, args.tiny, args.minutes, names)
    run_part(args.part, args.tiny, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
