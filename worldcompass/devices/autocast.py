"""CUDA's autocast policy for CPU tensors: each operation gets the types that it would get on a GPU.

PyTorch registers a policy per operation and device. Those of CUDA and the CPU differ: on CUDA ``rms_norm``,
``layer_norm``, ``softmax`` and ``sum`` run in float32, on a CPU they keep bfloat16. The table follows PyTorch's
documentation of autocast and is compared with the installed dispatcher by the tests.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# Names of operations as the dispatcher has them, without "aten::".
LOWER = _names("""
_convolution _convolution.deprecated _scaled_dot_product_flash_attention _thnn_fused_gru_cell _thnn_fused_lstm_cell
addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_tbc conv_transpose1d
conv_transpose2d.input conv_transpose3d.input convolution cudnn_convolution cudnn_convolution_transpose einsum
gru_cell linalg_multi_dot linalg_vecdot linear lstm_cell matmul mm mv prelu rnn_relu_cell rnn_tanh_cell
scaled_dot_product_attention
""")
FLOAT32 = _names("""
_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d acos asin binary_cross_entropy_with_logits cdist cosh cosine_embedding_loss
cosine_similarity dist erfinv exp expm1 frobenius_norm.dim group_norm hinge_embedding_loss huber_loss kl_div l1_loss
layer_norm log log10 log1p log2 logsumexp margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss
native_layer_norm nll_loss nll_loss2d nuclear_norm nuclear_norm.dim pdist poisson_nll_loss pow.Scalar
pow.Tensor_Scalar pow.Tensor_Tensor reciprocal renorm rms_norm rsqrt sinh smooth_l1_loss soft_margin_loss softplus
tan triplet_margin_loss upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d
""")
# They run in the type of their argument ``dtype``; without one, in float32.
FLOAT32_BY_ARGUMENT = _names("""
cumprod cumsum linalg_matrix_norm linalg_matrix_norm.str_ord linalg_vector_norm log_softmax.int prod prod.dim_int
softmax.int sum sum.dim_IntList
""")
# Norms without an argument ``dtype``: this overload, which has one, takes their place.
NORMS = {"norm.Scalar": "ScalarOpt_dtype", "norm.ScalarOpt_dim": "ScalarOpt_dim_dtype"}
WIDEST = _names("""
addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot vdot
""")
REFUSED = ("binary_cross_entropy",)  # CUDA's autocast raises an error

_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
Call = Callable[..., Any]


def in_bf16(device: str, enabled: bool = True) -> torch.autocast:
    """A context that runs a network in bfloat16, on ``cpu`` or ``cuda``; the same for runs and for their plans.

    It keeps no copies of the weights it casts. Inside one long context, such as a rollout, these copies would be a
    second network in memory, gathered whole even when the weights are sharded. Casting again takes milliseconds.
    """
    return torch.autocast(device, torch.bfloat16, enabled=enabled, cache_enabled=False)


def without_autocast(like: Tensor) -> torch.autocast:
    """A context in which matrix products keep the dtype of their factors, even inside autocast."""
    return torch.autocast(like.device.type, enabled=False)


@contextmanager
def cuda_policy() -> Iterator[None]:
    """Inside the block ``torch.autocast("cpu")`` casts as ``torch.autocast("cuda")`` does. Not for several threads.

    What both devices cast to bfloat16 keeps PyTorch's own function.
    """
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators")  # overriding is intended
            for name, kernel in _kernels().items():
                library.impl(name, kernel, "AutocastCPU", allow_override=True)
        yield
    finally:
        library._destroy()


@cache
def registered(device: str) -> frozenset[str]:
    """Operations for which the installed PyTorch has a policy; ``device`` is CUDA or CPU."""
    known = torch._C._dispatch_get_all_op_names()
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return frozenset(n[6:] for n in known if n.startswith("aten::") and has(n, f"Autocast{device}"))


@cache
def _kernels() -> dict[str, Call]:
    of_cuda, of_cpu = registered("CUDA"), registered("CPU")
    kernels = {name: _plain(_operation(name)) for name in of_cpu - of_cuda}
    kernels |= {name: _cast(_operation(name), _lower) for name in LOWER if name not in of_cpu}
    kernels |= {name: _cast(_operation(name), _float32) for name in FLOAT32}
    kernels |= {name: _cast(_operation(name), _widest) for name in WIDEST}
    kernels |= {name: _by_argument(_operation(name)) for name in FLOAT32_BY_ARGUMENT}
    kernels |= {name: _norm(name, overload) for name, overload in NORMS.items()}
    return {name: kernel for name, kernel in kernels.items() if name in of_cuda | of_cpu}


def _operation(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _below_autocast(operation: Call, *args: Any, **kwargs: Any) -> Any:
    with torch._C._ExcludeDispatchKeyGuard(_KEY):
        return operation(*args, **kwargs)


def _plain(operation: Call) -> Call:
    return lambda *args, **kwargs: _below_autocast(operation, *args, **kwargs)


def _cast(operation: Call, type_of: Callable[[list[Tensor]], torch.dtype]) -> Call:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        chosen = type_of([x for x in tree_iter((args, kwargs)) if _is_cast(x)])
        args, kwargs = tree_map(lambda x: x.to(chosen) if _is_cast(x) else x, (args, kwargs))
        return _below_autocast(operation, *args, **kwargs)

    return kernel


def _by_argument(operation: Any) -> Call:
    place = [argument.name for argument in operation._schema.arguments].index("dtype")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        given = args[place] if len(args) > place else kwargs.get("dtype")
        if given is None and _is_cast(args[0]):
            args, kwargs = args[:place], {**kwargs, "dtype": torch.float32}
        return _below_autocast(operation, *args, **kwargs)

    return kernel


def _norm(name: str, overload: str) -> Call:
    plain, typed = _operation(name), getattr(torch.ops.aten.norm, overload)

    def kernel(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not _is_cast(x):
            return _below_autocast(plain, x, *args, **kwargs)
        given = dict(zip([a.name for a in plain._schema.arguments][1:], args, strict=False)) | kwargs
        order = given.pop("p", 2)
        return _below_autocast(typed, x, order, **given, dtype=torch.float32)

    return kernel


def _is_cast(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64


def _lower(tensors: list[Tensor]) -> torch.dtype:
    return torch.get_autocast_dtype("cpu")


def _float32(tensors: list[Tensor]) -> torch.dtype:
    return torch.float32


def _widest(tensors: list[Tensor]) -> torch.dtype:
    wide = any(tensor.dtype == torch.float32 for tensor in tensors)
    return torch.float32 if wide else torch.get_autocast_dtype("cpu")
