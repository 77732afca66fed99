"""What the WorldPlay adapter saves: candidates in one batch, the past attended where it lies, text read once.

Both ways of a row run in turn in one process and compute the same, so the median of their ratios holds on a noisy
machine. On a CPU the network is small, with few cells per latent, so that what is saved is not hidden behind
products that both ways share, or it is the smoke recipe's own; seconds are those of the processors, memory is that
of tensors made and alive, and only the ratios mean anything. On CUDA the network has its real size, random weights
and bfloat16. Under each a table of time, memory and the share of the measured matrix-product rate follows.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worldcompass.cost.trace import LiveBytes
from worldcompass.seeding import generator_for
from worldcompass.training.lora import Lora, inject_lora
from worldcompass.training.optim import adamw
from worldcompass.worlds.open.attention import KeyValues, attend_after
from worldcompass.worlds.open.tiny import randomise
from worldcompass.worlds.worldplay import branches
from worldcompass.worlds.worldplay.branches import Latents
from worldcompass.worlds.worldplay.config import Config8B
from worldcompass.worlds.worldplay.context import MEMORY_8B
from worldcompass.worlds.worldplay.text import TextStates
from worldcompass.worlds.worldplay.tiny import TINY_8B
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B
from worldcompass.worlds.worldplay.world import CHUNK, LORA_TARGETS_8B

SMALL = Config8B(
    latent_channels=8, width=192, num_heads=3, num_blocks=4, rope_dims=(16, 24, 24), text_width=64, vision_width=48,
    byt5_widths=(40, 64, 64),
)  # fmt: skip
REPEATS = {"cpu": 15, "cuda": 5}
TEXT_TOKENS, VISION_TOKENS = 200, 729  # of a usual caption, and of the start image
MATRIX = {"cpu": 1024, "cuda": 8192}  # rows and columns of the product whose rate is measured
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with random weights, and the sizes of what it is given."""

    name: str
    config: Config8B
    size: tuple[int, int]
    """Cells of a latent."""
    scale: int
    """By how much text is shorter than the real model's."""
    recompute: bool = False

    def made(self, device: str) -> Transformer8B:
        with torch.device("meta"):
            net = Transformer8B(self.config, self.recompute).to(DTYPES[device])
        net.to_empty(device=device)
        if device == "cpu":
            randomise(net, generator_for("benchmark"))
        else:  # where they lie: billions are too many for one generator of a CPU
            for parameter in net.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
        return net


NETWORKS = {
    "cpu": (
        Network("the smoke recipe's network: 2 blocks of width 24", TINY_8B, (6, 8), 40),
        Network("a small network: 4 blocks of width 192", SMALL, (2, 4), 4),
    ),
    "cuda": (Network("the real size: 54 blocks of width 2048, 480x832", Config8B(), (30, 52), 1, True),),
}


def latents(
    config: Config8B, size: tuple[int, int], rows: int, count: int, first: int, device: str
) -> Latents:
    return Latents(
        torch.randn(rows, 2 * config.latent_channels + 1, count, *size, device=device),
        torch.full((rows, count), 700.0, device=device),
        torch.ones(rows, count, dtype=torch.long, device=device),
        torch.eye(4, device=device).expand(rows, count, 4, 4),
        torch.full((rows, count, 4), 0.5, device=device),
        first,
    )


def text(config: Config8B, scale: int, device: str) -> TextStates:
    tokens, image = TEXT_TOKENS // scale, VISION_TOKENS // scale
    return TextStates(
        torch.randn(tokens, config.text_width, device=device),
        torch.ones(tokens, device=device),
        torch.zeros(4, config.byt5_widths[0], device=device),
        torch.zeros(4, device=device),
        torch.randn(image, config.vision_width, device=device),
    )


def with_copied_past(q: Tensor, k: Tensor, v: Tensor, pasts: Sequence[KeyValues]) -> Tensor:
    """``attend_after`` as the released code has it: every row's keys begin with its own copy of the past's."""
    rows = q.shape[1] // max(len(pasts), 1)
    past_k, past_v = (
        torch.cat([past[part][:, None].expand(-1, rows, -1, -1, -1) for past in pasts], 1) for part in (0, 1)
    )
    q, k, v = (
        q.flatten(0, 1),
        torch.cat([past_k, k], 3).flatten(0, 1),
        torch.cat([past_v, v], 3).flatten(0, 1),
    )
    return nn.functional.scaled_dot_product_attention(q, k, v).unflatten(0, (2, -1))


def seconds(call: Callable[[], Any], device: str) -> float:
    """Of the wall clock on CUDA, of the processors on a CPU, which others may be using too."""
    if device == "cpu":
        begun = time.process_time()
        call()
        return time.process_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def peak_mib(call: Callable[[], Any], device: str) -> float:
    """What a call takes over what was there before."""
    if device == "cpu":
        with LiveBytes() as live:
            call()
        return live.peak / 2**20
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def compare(
    name: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], repeats: int, device: str
) -> None:
    """Both in turn; the first round warms up and checks that they compute the same."""
    found, expected = ours(), theirs()
    tolerance = 0.1 if device == "cuda" else 1e-3
    assert float((found.float() - expected.float()).abs().max()) < tolerance * float(expected.abs().max())
    del found, expected
    pairs = [(seconds(ours, device), seconds(theirs, device)) for _ in range(repeats)]
    own, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    memory = peak_mib(ours, device), peak_mib(theirs, device)
    print(
        f"{name:<58}{own:>9.3f}{other:>11.3f}{ratio:>8.2f}"
        f"{memory[0]:>10.1f}{memory[1]:>11.1f}{memory[1] / memory[0]:>8.2f}",
        flush=True,
    )


def savings(
    net: Transformer8B, size: tuple[int, int], scale: int, group: int, repeats: int, device: str
) -> None:
    config = net.config
    remembered = MEMORY_8B.num_latents
    states = text(config, scale, device)
    prompt = net(states)
    past = net(latents(config, size, 1, remembered, 0, device), [prompt], keep_keys=True)
    rows = latents(config, size, group, CHUNK, remembered, device)
    single = [_row(rows, b) for b in range(group)]
    columns = f"{'ours':>9}{'otherwise':>11}{'ratio':>8}{'MiB ours':>10}{'otherwise':>11}{'ratio':>8}"
    print(f"{'seconds and memory of one denoising step':<58}{columns}")

    def together() -> Tensor:
        return net(rows, past)

    def one_by_one() -> Tensor:
        return torch.cat([net(row, past) for row in single])

    def copied() -> Tensor:
        branches.attend_after = with_copied_past
        try:
            return net(rows, past)
        finally:
            branches.attend_after = attend_after

    def text_again() -> Tensor:
        net(states)
        return net(rows, past)

    compare(f"{group} candidates in one batch, otherwise one by one", together, one_by_one, repeats, device)
    compare("past attended where it lies, otherwise copied per candidate", together, copied, repeats, device)
    compare("text read once, otherwise at every step", together, text_again, repeats, device)


def saving_of_frozen_text(
    net: Transformer8B, size: tuple[int, int], scale: int, repeats: int, device: str
) -> None:
    """A training pass of one row right after its text, which has no memory that would hide the difference."""
    config = net.config
    states, row = text(config, scale, device), latents(config, size, 1, CHUNK, 0, device)
    with torch.no_grad():
        prompt = net(states)
    print(f"{'seconds and memory of one training pass':<58}")

    def train(read: Callable[[], Any], whole: bool) -> Tensor:
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(whole or not net.is_text_only(name))
        velocity = net(row, [read()])
        velocity.float().square().mean().backward()
        net.zero_grad(set_to_none=True)
        return velocity.detach()

    compare(
        "text frozen and read once, otherwise trained along",
        lambda: train(lambda: prompt, whole=False),
        lambda: train(lambda: net(states), whole=True),
        repeats,
        device,
    )


def _row(rows: Latents, b: int) -> Latents:
    values = {field.name: getattr(rows, field.name) for field in dataclasses.fields(rows)}
    return Latents(**{k: v[b : b + 1] if isinstance(v, Tensor) else v for k, v in values.items()})


def step_operations(config: Config8B, rows: int, tokens: int, prefix: int) -> float:
    """Floating-point operations of one pass over ``rows`` chunks, a multiplication and an addition each counted."""
    projections = 5 * config.width**2 + 2 * config.mlp_ratio * config.width**2
    attention = 2 * 2 * config.width * (tokens + prefix)  # two branches, keys and values
    return 2.0 * config.num_blocks * rows * tokens * (projections + attention)


@torch.no_grad()
def matrix_rate(device: str) -> float:
    """Operations per second of one large product, in the dtype of the network."""
    size, dtype = MATRIX[device], DTYPES[device]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in "ab")
    times = [seconds(lambda: a @ b, device) for _ in range(20)][5:]
    return 2 * size**3 / statistics.median(times)


def against_the_floor(
    net: Transformer8B, size: tuple[int, int], scale: int, group: int, repeats: int, device: str
) -> None:
    """Prefix, denoising step and training step with adapters: time, the floor of their operations, memory."""
    config, remembered, cells = net.config, MEMORY_8B.num_latents, size[0] * size[1]
    rate = matrix_rate(device)
    dtype = str(DTYPES[device]).removeprefix("torch.")
    print(f"\nmeasured rate of a {dtype} product of side {MATRIX[device]}: {rate / 1e12:.3f} TFLOP/s")
    print(f"{'':<58}{'s':>9}{'floor s':>9}{'share':>8}{'MiB':>10}")

    def row(name: str, operations: float, call: Callable[[], Any]) -> None:
        call()
        taken = statistics.median(seconds(call, device) for _ in range(repeats))
        floor, memory = operations / rate, held(net, device) + peak_mib(call, device)
        print(f"{name:<58}{taken:>9.3f}{floor:>9.3f}{floor / taken:>8.0%}{memory:>10.1f}", flush=True)

    with torch.no_grad():
        prompt = net(text(config, scale, device))
        memory = latents(config, size, 1, remembered, 0, device)
        words = prompt[0][0].shape[2]
        row(
            f"prefix of {remembered} latents",
            step_operations(config, 1, remembered * cells, words),
            lambda: net(memory, [prompt], keep_keys=True),
        )
        past = net(memory, [prompt], keep_keys=True)
        rows = latents(config, size, group, CHUNK, remembered, device)
        prefix = remembered * cells + words
        row(
            f"denoising step of {group} candidates",
            step_operations(config, group, CHUNK * cells, prefix),
            lambda: net(rows, past),
        )
    net.requires_grad_(False)
    inject_lora(net, Lora(rank=32, targets=LORA_TARGETS_8B), generator_for("benchmark"))
    chunk = latents(config, size, 1, CHUNK, remembered, device)
    optimizer = adamw([p for p in net.parameters() if p.requires_grad], 1e-4, 0.0)

    def train() -> None:
        net(chunk, past).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    passes = (
        3 if net.recompute else 2
    )  # forward, perhaps again, the inputs' gradients: frozen weights need none
    operations = passes * step_operations(config, 1, CHUNK * cells, prefix)
    row("training step with LoRA: a row forward, backward, AdamW", operations, train)


def held(net: nn.Module, device: str) -> float:
    """MiB that are there before a call: on CUDA all that is allocated, on a CPU the weights."""
    if device == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    return sum(p.nbytes for p in net.parameters()) / 2**20


def run(network: Network, group: int, repeats: int, device: str) -> None:
    net = network.made(device)
    print(f"\n{network.name}")
    with torch.no_grad():
        savings(net, network.size, network.scale, group, repeats, device)
    saving_of_frozen_text(net, network.size, network.scale, repeats, device)
    against_the_floor(net, network.size, network.scale, group, repeats, device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=12, metavar="G")
    parser.add_argument("--repeats", type=int, default=None, help="15 on a CPU, 5 on CUDA by default")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    args = parser.parse_args()
    repeats = args.repeats or REPEATS[args.device]
    print(
        f"{args.device}, threads {torch.get_num_threads()}, torch {torch.__version__}, medians of {repeats}"
    )
    for network in NETWORKS[args.device]:
        run(network, args.candidates, repeats, args.device)


if __name__ == "__main__":
    main()
