"""Optimisers against plain twins and a singular value decomposition, exact resume, refusal of bad updates."""

import copy

import pytest
import torch
from torch import nn

from worldcompass.cost.trace import LiveBytes
from worldcompass.training import optim
from worldcompass.training.optim import (
    Muon,
    NonFiniteUpdate,
    NormalisedSGD,
    adamw,
    clip_gradients,
    muon,
    normalised_sgd,
    orthogonalise,
)


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(6, 4), (6, 4), (4, 6), (5, 2, 3), (7,)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def set_grads(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)


def plain_newton_schulz(matrix):
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        x = 3.4445 * x + (-4.7750 * (x @ x.T) + 2.0315 * (x @ x.T) @ (x @ x.T)) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


@pytest.mark.golden
def test_muon_equals_a_plain_twin_over_several_steps():
    ours, theirs = parameters(), [p.detach().clone() for p in parameters()]
    optimizer, lr, decay = Muon(ours, lr=0.02, weight_decay=0.1), 0.02, 0.1
    buffers = [torch.zeros_like(p) for p in theirs]
    squares = torch.zeros_like(theirs[-1])
    for step in range(1, 5):
        set_grads(ours, step)
        grads = [p.grad.clone() for p in ours]
        optimizer.step()
        for i, (p, g) in enumerate(zip(theirs, grads, strict=True)):
            if p.ndim >= 2:
                buffers[i] = 0.95 * buffers[i] + g
                update = plain_newton_schulz((g + 0.95 * buffers[i]).flatten(1)).view_as(p)
                theirs[i] = p * (1 - lr * decay) - lr * 0.2 * max(p.shape[0], p.shape[1]) ** 0.5 * update
            else:
                buffers[i] = 0.9 * buffers[i] + 0.1 * g
                squares = 0.999 * squares + 0.001 * g**2
                m, v = buffers[i] / (1 - 0.9**step), (1 - 0.999**step) ** 0.5
                theirs[i] = p * (1 - lr * decay) - lr * m * v / (squares.sqrt() + 1e-8)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 5), (2, 5, 16)])
def test_orthogonalise_keeps_directions_with_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalise(matrices)
    assert torch.linalg.svdvals(result)[:, :-1].sub(1).abs().max() < 0.4
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    cosine = (result * (u @ vh)).sum((1, 2)) / (result.norm(dim=(1, 2)) * (u @ vh).norm(dim=(1, 2)))
    assert cosine.min() > 0.97


def test_normalised_sgd_equals_a_plain_twin_over_several_steps():
    ours, theirs = parameters(), [p.detach().clone() for p in parameters()]
    optimizer, buffers = NormalisedSGD(ours, lr=0.3, weight_decay=0.1), [torch.zeros_like(p) for p in theirs]
    for step in range(4):
        set_grads(ours, step)
        size = sum(float(p.grad.square().sum()) for p in ours) ** 0.5
        buffers = [0.8 * b + 0.2 * p.grad / size for b, p in zip(buffers, ours, strict=True)]
        optimizer.step()
        theirs = [p * (1 - 0.3 * 0.1) - 0.3 * b for p, b in zip(theirs, buffers, strict=True)]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b)


@pytest.mark.parametrize(("make", "least", "most"), [(normalised_sgd, 0.5, 1.0), (muon, 0.0, 0.3)])
def test_a_signal_in_one_direction_survives_noise_in_all(make, least, most):
    """Muon makes all directions alike, so most of its way is noise; gradients keep the signal's share."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.outer(torch.randn(64, generator=generator), torch.randn(64, generator=generator))
    weight = nn.Parameter(torch.zeros(64, 64))
    optimizer = make([weight], 0.01, 0.0)
    for _ in range(20):
        weight.grad = signal + 2 * torch.randn(64, 64, generator=generator)
        optimizer.step()
    share = -float((weight.detach() * signal).sum() / (weight.detach().norm() * signal.norm()))
    assert least < share < most


@pytest.mark.parametrize("make", [muon, adamw, normalised_sgd])
def test_state_dict_resumes_bitwise(make):
    straight = parameters()
    optimizer = make(straight, 0.01, 0.1)
    for step in range(3):
        set_grads(straight, step)
        optimizer.step()
    resumed = [nn.Parameter(p.detach().clone()) for p in straight]
    second = make(resumed, 0.01, 0.1)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        for params, one in ((straight, optimizer), (resumed, second)):
            set_grads(params, step)
            one.step()
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_parameters_without_a_gradient_are_left_alone():
    params = parameters()
    before = [p.detach().clone() for p in params]
    set_grads(params[:1], 0)
    muon(params, 0.1, 0.1).step()
    assert not torch.equal(params[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(params[1:], before[1:], strict=True))


def test_gradients_are_clipped_to_the_total_norm():
    params = parameters()
    set_grads(params, 0)
    norm = clip_gradients(params, 1.0, 0.5)
    assert norm > 0.5
    assert torch.cat([p.grad.flatten() for p in params]).norm().item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("loss", [1.0, float("nan")])
def test_non_finite_losses_and_gradients_are_refused_before_the_step(loss):
    params = parameters()
    set_grads(params, 0)
    before = [p.detach().clone() for p in params]
    if loss == 1.0:
        params[2].grad[0, 0] = torch.inf
    with pytest.raises(NonFiniteUpdate, match="refused"):
        clip_gradients(params, loss, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


def test_unusable_settings_are_refused():
    with pytest.raises(ValueError, match="momentum"):
        Muon(parameters(), lr=0.1, momentum=1.0)


def test_muon_takes_many_matrices_in_parts_with_the_same_result_and_less_memory(monkeypatch):
    def step(most):
        monkeypatch.setattr(optim, "MAX_TOGETHER", most)
        generator = torch.Generator().manual_seed(0)
        matrices = [nn.Parameter(torch.randn(16, 24, generator=generator)) for _ in range(12)]
        for matrix in matrices:
            matrix.grad = torch.randn(16, 24, generator=generator)
        optimizer = Muon(matrices, lr=0.1)
        with LiveBytes() as live:
            optimizer.step()
        return torch.stack([matrix.detach() for matrix in matrices]), live.peak - live.now

    (whole, most), (parts, less) = step(1 << 26), step(2 * 16 * 24)
    torch.testing.assert_close(parts, whole)
    assert less < most / 4
