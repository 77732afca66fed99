"""CUDA's choice of types and kernels on a machine without CUDA."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from worldcompass import cli
from worldcompass.devices import autocast
from worldcompass.devices.attention import cuda_kernel
from worldcompass.devices.autocast import cuda_policy, registered
from worldcompass.devices.cuda import as_on_cuda, device_of_rank, on_cuda
from worldcompass.errors import UserError
from worldcompass.parallel import team
from worldcompass.worlds.open.weights import _with_index


def x(device, *shape, dtype=torch.bfloat16):
    return torch.empty(*(shape or (4, 8)), dtype=dtype, device=device)


def wide(device, *shape):
    return x(device, *shape, dtype=torch.float32)


CALLS = {
    "rms_norm": lambda d: functional.rms_norm(x(d), (8,), wide(d, 8)),
    "layer_norm": lambda d: functional.layer_norm(x(d), (8,), wide(d, 8), wide(d, 8)),
    "group_norm": lambda d: functional.group_norm(x(d, 2, 8, 3), 2),
    "linear": lambda d: functional.linear(wide(d), wide(d, 3, 8)),
    "matmul": lambda d: wide(d) @ x(d, 8, 4),
    "bmm": lambda d: wide(d, 2, 3, 4) @ wide(d, 2, 4, 5),
    "mv": lambda d: torch.mv(wide(d), wide(d, 8)),
    "einsum": lambda d: torch.einsum("ab,cb->ac", wide(d), wide(d)),
    "conv3d": lambda d: functional.conv3d(wide(d, 1, 2, 3, 4, 4), wide(d, 5, 2, 1, 1, 1)),
    "attention": lambda d: functional.scaled_dot_product_attention(*(wide(d, 1, 2, 3, 8) for _ in "qkv")),
    "softmax": lambda d: x(d).softmax(-1),
    "softmax of float64": lambda d: x(d, dtype=torch.float64).softmax(-1),
    "softmax in its own type": lambda d: x(d).softmax(-1, dtype=torch.bfloat16),
    "log_softmax": lambda d: x(d).log_softmax(-1),
    "logsumexp": lambda d: x(d).logsumexp(-1),
    "exp": lambda d: x(d).exp(),
    "log": lambda d: x(d).log(),
    "rsqrt": lambda d: x(d).rsqrt(),
    "power": lambda d: x(d) ** 3,
    "square": lambda d: x(d).square(),
    "sum": lambda d: x(d).sum(-1),
    "sum of integers": lambda d: torch.empty(3, dtype=torch.long, device=d).sum(),
    "mean": lambda d: x(d).mean(-1),
    "cumsum": lambda d: x(d).cumsum(-1),
    "norm": lambda d: x(d).norm(),
    "norm along an axis": lambda d: x(d).norm(dim=-1),
    "vector_norm": lambda d: torch.linalg.vector_norm(x(d)),
    "mse_loss": lambda d: functional.mse_loss(x(d), x(d)),
    "silu": lambda d: functional.silu(x(d)),
    "gelu": lambda d: functional.gelu(x(d), approximate="tanh"),
    "cat": lambda d: torch.cat([x(d), wide(d)]),
    "stack": lambda d: torch.stack([x(d), wide(d)]),
    "addcmul": lambda d: torch.addcmul(x(d), x(d), wide(d)),
    "atan2": lambda d: torch.atan2(x(d), wide(d)),
    "interpolate": lambda d: functional.interpolate(x(d, 1, 2, 4, 4), scale_factor=2.0),
    "interpolate bilinear": lambda d: functional.interpolate(
        x(d, 1, 2, 4, 4), scale_factor=2.0, mode="bilinear"
    ),
    "padding": lambda d: functional.pad(x(d, 1, 2, 4, 4), (1, 1, 1, 1), mode="replicate"),
    "adding": lambda d: x(d) + wide(d),
}


@contextmanager
def real_cuda_autocast() -> Iterator[None]:
    """The installed PyTorch's own autocast for tensors that claim to be on CUDA; no GPU is needed to pick types."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_policy_gives_the_types_of_the_installed_pytorch(call):
    with FakeTensorMode():
        with real_cuda_autocast():
            expected = call("cuda").dtype
        with cuda_policy(), torch.autocast("cpu", torch.bfloat16):
            found = call("cpu").dtype
    assert found == expected


def test_the_table_has_every_operation_that_pytorch_casts_on_cuda():
    table = {*autocast.LOWER, *autocast.FLOAT32, *autocast.FLOAT32_BY_ARGUMENT, *autocast.NORMS}
    table |= {*autocast.WIDEST, *autocast.REFUSED}
    assert registered("CUDA") <= table


def test_outside_the_block_the_cpu_has_its_own_policy_again():
    a = torch.ones(4, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        with cuda_policy():
            assert functional.layer_norm(a, (8,)).dtype == torch.float32
        assert functional.layer_norm(a, (8,)).dtype == torch.bfloat16
    with pytest.raises(KeyError), as_on_cuda():
        assert on_cuda(a)
        raise KeyError
    assert not on_cuda(a)


def test_gradients_pass_through_the_policy_in_the_types_of_their_tensors():
    a = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True)
    with cuda_policy(), torch.autocast("cpu", torch.bfloat16):
        functional.rms_norm(a, (8,)).exp().sum().backward()
    assert a.grad is not None and a.grad.dtype == torch.bfloat16 and bool(a.grad.any())


def attention(dtype=torch.bfloat16, head=128, **types):
    return [torch.empty(1, 2, 3, head, dtype=types.get(name, dtype), device="meta") for name in "qkv"]


@pytest.mark.parametrize(
    ("tensors", "kernel"),
    [
        (attention(), "flash"),
        (attention(torch.float16), "flash"),
        (attention(head=12), "plain"),
        (attention(head=512), "memory-efficient"),
        (attention(torch.float32), "memory-efficient"),
        (attention(torch.float64), "plain"),
        (attention(q=torch.float32, k=torch.float32), "plain"),
    ],
)
def test_types_and_sizes_decide_on_the_kernel_of_attention(tensors, kernel):
    assert cuda_kernel(*tensors) == kernel


def test_a_mask_rules_flash_out():
    q, k, v = attention()
    assert cuda_kernel(q, k, v, mask=torch.empty(3, 3)) == "memory-efficient"


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert device_of_rank("cuda", 8) == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of_rank("cuda", 8) == "cuda:3"
    assert device_of_rank("cuda", 1) == "cuda:0"  # a scheduler shows each process only its own
    assert device_of_rank("cuda:1", 8) == "cuda:1"  # a single process may choose
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert device_of_rank("cuda:3", 8) == "cuda:3"
    with pytest.raises(UserError, match="several processes cannot share cuda:1: use --device cuda"):
        device_of_rank("cuda:1", 8)
    assert device_of_rank("cpu", 0) == "cpu"
    with pytest.raises(UserError, match="process 3 of this machine has no GPU, PyTorch sees 2"):
        device_of_rank("cuda", 2)
    monkeypatch.setenv("LOCAL_RANK", "one")
    with pytest.raises(UserError, match="LOCAL_RANK is one: expected a whole number"):
        device_of_rank("cuda", 8)


def test_processes_without_a_number_of_their_own_do_not_share_the_first_gpu(monkeypatch):
    for name, value in {"LOCAL_RANK": "", "LOCAL_WORLD_SIZE": "", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="WORLD_SIZE is 2 and LOCAL_RANK is not set"):
        device_of_rank("cuda", 8)
    assert device_of_rank("cuda", 1) == "cuda"  # one machine each, or one visible GPU each
    assert device_of_rank("cuda:1", 8) == "cuda:1" and device_of_rank("cpu", 0) == "cpu"
    monkeypatch.setenv("WORLD_SIZE", "")
    assert device_of_rank("cuda", 8) == "cuda"


def test_a_rank_of_a_training_run_is_told_its_own_gpu(monkeypatch, tmp_path):
    """And so are the libraries that it hands the device to."""
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "import dataclasses\nfrom pathlib import Path\n@dataclasses.dataclass(frozen=True)\nclass Mine:\n"
        "    def run(self, out, device, resume):\n        Path(out, 'device').write_text(device)\n"
        "def mine():\n    return Mine()\n"
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert cli.main(["train", str(recipe), "--device", "cuda", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "device").read_text() == "cuda:3"
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    assert [_with_index(name) for name in ("cuda", "cuda:3", "cpu")] == ["cuda:5", "cuda:3", "cpu"]


def test_a_rank_computes_on_its_own_gpu_before_it_meets_the_others(monkeypatch):
    """Else NCCL of all ranks would meet on GPU 0."""
    chosen = []

    def meet(backend):
        raise InterruptedError(backend)

    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(device)))
    monkeypatch.setattr(team, "_init_process_group", meet)
    with pytest.raises(InterruptedError, match="cuda:nccl"), team._met(3, "cuda"):
        pass
    assert chosen == ["cuda:3"]
