"""Attention of many candidates to one shared past and to themselves, without copies of the past.

Two fused kernels compute the softmax over past keys and over own keys. Each also returns the log of its normaliser,
by which the two results are merged. The kernels' backward pass needs only the merged output and normaliser, as
``P = exp(qk - lse)`` is then the joint softmax. Ring attention does the same (arXiv 2310.01889).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

KeyValues = tuple[Tensor, Tensor]
"""Keys and values of one block, (R, heads, tokens, head): R = 2 branches of attention, rotary then cameras."""

aten = torch.ops.aten


def attend_after(q_RBhNd: Tensor, k_RBhNd: Tensor, v_RBhNd: Tensor, pasts: Sequence[KeyValues]) -> Tensor:
    """Attention of every row to its past and to itself; (R, B, heads, N, head).

    Args:
        q_RBhNd: queries of all rows.
        k_RBhNd: the rows' own keys.
        v_RBhNd: the rows' own values.
        pasts: P pasts of any lengths; row b belongs to past ``b // (B // P)``. Without any, rows attend only to
            themselves.

    Raises:
        ValueError: when the pasts do not divide the rows.
    """
    if not pasts:
        q, k, v = (x.flatten(0, 1) for x in (q_RBhNd, k_RBhNd, v_RBhNd))
        return functional.scaled_dot_product_attention(q, k, v).view_as(q_RBhNd)
    rows = rows_per_past(q_RBhNd.shape[1], len(pasts))
    own = zip(*(x.split(rows, 1) for x in (q_RBhNd, k_RBhNd, v_RBhNd)), strict=True)
    return torch.cat([_AfterPast.apply(*qkv, *past) for qkv, past in zip(own, pasts, strict=True)], 1)


def attend_to(q_BhNd: Tensor, pasts: Sequence[KeyValues]) -> Tensor:
    """Attention of every row to its past's text only, with keys (1, heads, L, head); (B, heads, N, head)."""
    rows = rows_per_past(len(q_BhNd), len(pasts))
    seen = [
        _unfold(functional.scaled_dot_product_attention(_fold(q[None]), k, v), rows)[0]
        for q, (k, v) in zip(q_BhNd.split(rows), pasts, strict=True)
    ]
    return torch.cat(seen)


def rows_per_past(num_rows: int, num_pasts: int) -> int:
    """Number of candidates of each past.

    Raises:
        ValueError: when the pasts do not divide the rows.
    """
    if num_pasts == 0 or num_rows % num_pasts:
        raise ValueError(
            f"{num_rows} rows cannot be divided among {num_pasts} pasts: give each past the same number of rows"
        )
    return num_rows // num_pasts


def merge(a: Tensor, a_lse: Tensor, b: Tensor, b_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merge two parts of a softmax: outputs (..., N, d), weighted by log normalisers (..., N); returns both."""
    lse = torch.logaddexp(a_lse, b_lse)
    out = a * (a_lse - lse).exp()[..., None] + b * (b_lse - lse).exp()[..., None]
    return out.to(a.dtype), lse


class _AfterPast(torch.autograd.Function):
    """Attention of the G rows of one past, with gradients for queries, keys and values of both parts."""

    @staticmethod
    def forward(
        ctx: Any, q_RGhNd: Tensor, k_RGhNd: Tensor, v_RGhNd: Tensor, past_k_RhSd: Tensor, past_v_RhSd: Tensor
    ) -> Tensor:
        rows = q_RGhNd.shape[:2]
        own, own_lse, own_rest = _kernel(*(x.flatten(0, 1) for x in (q_RGhNd, k_RGhNd, v_RGhNd)))
        seen, seen_lse, seen_rest = _kernel(_fold(q_RGhNd), past_k_RhSd, past_v_RhSd)
        out, lse = merge(
            own.unflatten(0, rows),
            own_lse.unflatten(0, rows),
            _unfold(seen, rows[1]),
            _unfold(seen_lse, rows[1]),
        )
        ctx.save_for_backward(q_RGhNd, k_RGhNd, v_RGhNd, past_k_RhSd, past_v_RhSd, out, lse)
        ctx.rests = own_rest, seen_rest
        return out

    @staticmethod
    def backward(ctx: Any, grad_RGhNd: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        q, k, v, past_k, past_v, out, lse = ctx.saved_tensors
        rows = q.shape[:2]
        own_rest, seen_rest = ctx.rests
        grad = grad_RGhNd.contiguous()
        flat = [x.flatten(0, 1) for x in (grad, q, k, v, out, lse)]
        dq, dk, dv = (x.unflatten(0, rows) for x in _kernel_backward(flat, own_rest))
        folded = [_fold(grad), _fold(q), past_k, past_v, _fold(out), _fold(lse)]
        past_dq, past_dk, past_dv = _kernel_backward(folded, seen_rest)
        return dq + _unfold(past_dq, rows[1]), dk, dv, past_dk, past_dv


def _fold(x_RGhN: Tensor) -> Tensor:
    """All candidates' queries as one long row: (R, G, h, N, ...) to (R, h, G * N, ...)."""
    return x_RGhN.transpose(1, 2).flatten(2, 3)


def _unfold(x_RhM: Tensor, num_rows: int) -> Tensor:
    """The inverse of ``_fold``."""
    return x_RhM.unflatten(2, (num_rows, -1)).transpose(1, 2)


def _on_flash(q: Tensor) -> bool:
    return q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] % 8 == 0


def _kernel(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Attention (B, h, N, d), its log normaliser (B, h, N), and further inputs of the backward kernel."""
    if _on_flash(q):
        out, lse, *rest = aten._scaled_dot_product_flash_attention.default(q, k, v)
        return out, lse, tuple(rest[:6])
    if q.device.type == "cpu":
        return *aten._scaled_dot_product_flash_attention_for_cpu.default(q, k, v), ()
    return *plain_attention(q, k, v), ()


def _kernel_backward(saved: Sequence[Tensor], rest: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for queries, keys and values from (grad, q, k, v, out, lse)."""
    grad, q, k, v, out, lse = saved
    if _on_flash(q):
        cum_q, cum_k, max_q, max_k, seed, offset = rest
        return aten._scaled_dot_product_flash_attention_backward.default(
            grad, q, k, v, out, lse.contiguous(), cum_q, cum_k, max_q, max_k, 0.0, False, seed, offset
        )
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu_backward.default(
            grad, q, k, v, out, lse, 0.0, False
        )
    return plain_attention_backward(grad, q, k, v, out, lse)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention in plain PyTorch for devices and dtypes without a kernel (float32 on CUDA), with N × S memory."""
    scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5
    lse = scores.logsumexp(-1)
    return ((scores - lse[..., None]).exp() @ v.float()).to(q.dtype), lse


def plain_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``plain_attention`` for queries, keys and values."""
    scale = q.shape[-1] ** -0.5
    grad, q_, k_, v_ = (x.float() for x in (grad, q, k, v))
    weights = (q_ @ k_.mT * scale - lse[..., None]).exp()
    delta = (grad * out.float()).sum(-1, keepdim=True)
    scores_grad = weights * (grad @ v_.mT - delta) * scale
    parts = scores_grad @ k_, scores_grad.mT @ q_, weights.mT @ grad
    dq, dk, dv = (part.to(q.dtype) for part in parts)
    return dq, dk, dv
