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

from worldcompass.devices.attention import fits_flash
from worldcompass.devices.cuda import on_cuda
from worldcompass.worlds.open.pasts import rows_per_past

KeyValues = tuple[Tensor, Tensor]
"""Keys and values of one block, (R, heads, tokens, head): R branches of attention, rotary then cameras."""

aten = torch.ops.aten
MAX_SCORES = 1 << 27  # of attention without a kernel, half a GiB in float32


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


def _on_flash(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return on_cuda(q) and fits_flash(q, k, v)


def _kernel(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Attention (B, h, N, d), its log normaliser (B, h, N), and further inputs of the backward kernel."""
    if _on_flash(q, k, v):
        out, lse, *rest = aten._scaled_dot_product_flash_attention.default(q, k, v)
        return out, lse, tuple(rest[:6])
    if not on_cuda(q) and q.device.type == "cpu":
        return *aten._scaled_dot_product_flash_attention_for_cpu.default(q, k, v), ()
    return *plain_attention(q, k, v), ()


def _kernel_backward(saved: Sequence[Tensor], rest: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for queries, keys and values from (grad, q, k, v, out, lse)."""
    grad, q, k, v, out, lse = saved
    if _on_flash(q, k, v):
        cum_q, cum_k, max_q, max_k, seed, offset = rest
        return aten._scaled_dot_product_flash_attention_backward.default(
            grad, q, k, v, out, lse.contiguous(), cum_q, cum_k, max_q, max_k, 0.0, False, seed, offset
        )
    if not on_cuda(q) and q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu_backward.default(
            grad, q, k, v, out, lse, 0.0, False
        )
    return plain_attention_backward(grad, q, k, v, out, lse)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention in plain PyTorch for devices and types without a kernel (float32 on CUDA), slow.

    Queries are taken in parts, so that no more than ``MAX_SCORES`` scores exist at once. Exact under autocast too.
    """
    with torch.autocast(q.device.type, enabled=False):
        k_, v_ = k.float(), v.float()
        parts = [_plain_part(part, k_, v_) for part in q.split(_queries_at_once(q, k), -2)]
        return torch.cat([out for out, _ in parts], -2), torch.cat([lse for _, lse in parts], -1)


def _plain_part(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = q.float() @ k.mT * q.shape[-1] ** -0.5
    lse = scores.logsumexp(-1)
    return ((scores - lse[..., None]).exp() @ v).to(q.dtype), lse


def plain_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``plain_attention`` for queries, keys and values."""
    size, dtype = _queries_at_once(q, k), q.dtype
    with torch.autocast(q.device.type, enabled=False):
        k_, v_ = k.float(), v.float()
        dq, dk, dv = [], torch.zeros_like(k_), torch.zeros_like(v_)
        grads, queries, outs = (x.split(size, -2) for x in (grad, q, out))
        for grad_part, q_part, out_part, lse_part in zip(
            grads, queries, outs, lse.split(size, -1), strict=True
        ):
            dq_part, dk_part, dv_part = _plain_part_backward(grad_part, q_part, out_part, lse_part, k_, v_)
            dq.append(dq_part.to(dtype))
            dk += dk_part
            dv += dv_part
        return torch.cat(dq, -2), dk.to(dtype), dv.to(dtype)


def _plain_part_backward(
    grad: Tensor, q: Tensor, out: Tensor, lse: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scale, grad, q = q.shape[-1] ** -0.5, grad.float(), q.float()
    weights = (q @ k.mT * scale - lse[..., None]).exp()
    delta = (grad * out.float()).sum(-1, keepdim=True)
    scores_grad = weights * (grad @ v.mT - delta) * scale
    return scores_grad @ k, scores_grad.mT @ q, weights.mT @ grad


def _queries_at_once(q: Tensor, k: Tensor) -> int:
    of_one_query = q.shape[:-2].numel() * k.shape[-2]
    return max(1, MAX_SCORES // max(1, of_one_query))
