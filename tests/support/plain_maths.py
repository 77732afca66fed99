"""Layers in their plainest form, for twins of networks: one row, any dtype, weights in a table by their names."""

import torch


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu_tanh(x):
    return x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def gelu(x):
    return x / 2 * (1 + torch.erf(x / 2**0.5))


def layer_norm(x, eps=1e-6):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def affine_norm(w, name, x, eps):
    return layer_norm(x, eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(w, name, x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]


def sinusoid(value, dim):
    rates = 10_000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angle = value[..., None].double() * rates
    return torch.cat([angle.cos(), angle.sin()], -1)


def attend(q_NhD, k_ShD, v_ShD):
    """Head by head."""
    seen = []
    for head in range(q_NhD.shape[1]):
        scores = q_NhD[:, head] @ k_ShD[:, head].T / q_NhD.shape[-1] ** 0.5
        seen.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ v_ShD[:, head])
    return torch.stack(seen, 1)


def by_place(x_NhD, places_N3, dims, theta):
    """Each pair of dimensions is a complex number, rotated by its position along one axis."""
    angle = torch.cat(
        [
            places_N3[:, i, None] * theta ** (-2 * torch.arange(dim // 2, dtype=torch.float64) / dim)
            for i, dim in enumerate(dims)
        ],
        1,
    )
    z = torch.view_as_complex(x_NhD.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(z * torch.polar(torch.ones_like(angle), angle)[:, None]).flatten(-2)


def by_matrix(x_NhD, matrix_N44):
    """Each group of four dimensions is a vector."""
    return torch.einsum("nij,nhgj->nhgi", matrix_N44, x_NhD.unflatten(-1, (-1, 4))).flatten(-2)
