"""Objectives against the velocity form of the paper, with gradients, and against stored numbers."""

import pytest
import torch

from worldcompass.training.objective import (
    Anchors,
    advantage_weighted_loss,
    anchored,
    contrast_ratio,
    excess,
    imitation_loss,
    kl_velocity,
    mean_shift,
    nft_loss,
    normalised_error,
    positive_only_loss,
    reward_weighted_loss,
    row_mean,
    velocity_ratio,
)

SHAPE = (3, 2, 4, 2, 3)


def numbers(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(4)]


def velocity_form(v, v_old, x_t, x0, sigma, advantage, beta):
    """DiffusionNFT as the paper writes it, in velocities, one sample after the other."""
    losses = []
    for i in range(len(v)):
        r = (advantage[i] + 1) / 2
        total = 0
        for share, velocity in (
            (r, (1 - beta) * v_old[i] + beta * v[i]),
            (1 - r, (1 + beta) * v_old[i] - beta * v[i]),
        ):
            error = (x_t[i] - sigma[i] * velocity) - x0[i]
            total = total + share * (error**2 / error.detach().abs().mean().clamp_min(1e-5)).mean()
        losses.append(total / beta)
    return torch.stack(losses)


@pytest.mark.golden
@pytest.mark.parametrize("beta", [0.1, 1.0, 2.0])
def test_nft_loss_and_gradient_equal_the_velocity_form(beta):
    v, v_old, noise, x0 = numbers()
    sigma, advantage = torch.tensor([0.9, 0.5, 0.1]).double(), torch.tensor([1.0, -0.3, -1.0]).double()
    s = sigma.view(-1, 1, 1, 1, 1)
    x_t = (1 - s) * x0 + s * noise
    v.requires_grad_()
    theirs = velocity_form(v, v_old, x_t, x0, sigma, advantage, beta)
    their_grad = torch.autograd.grad(theirs.sum(), v)[0]
    ours, metrics = nft_loss(x_t - s * v, x_t - s * v_old, x0, advantage, beta)
    our_grad = torch.autograd.grad(ours.sum(), v)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(our_grad, their_grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(metrics["deviation"], (s * (v - v_old)).square().mean((1, 2, 3, 4)).detach())


def test_stored_numbers():
    pred = torch.linspace(-1, 1, 24).view(1, 2, 3, 2, 2)
    loss, _ = nft_loss(pred, pred.flip(1), pred**2, torch.tensor([0.5]), 1.0)
    assert loss.item() == pytest.approx(1.3030701, rel=1e-6)  # the same sums over Python lists


def test_gradient_at_the_behaviour_is_advantage_times_regression():
    pred, _, _, target = numbers()
    pred.requires_grad_()
    advantage = torch.tensor([1.0, -0.5, 0.0]).double()
    nft = torch.autograd.grad(nft_loss(pred, pred.detach(), target, advantage)[0].sum(), pred)[0]
    released = torch.autograd.grad(
        advantage_weighted_loss(pred, pred.detach(), target, advantage)[0].sum(), pred
    )[0]
    torch.testing.assert_close(nft, released)
    assert nft[0].abs().sum() > 0 and nft[2].abs().max() < 1e-12


def test_nft_pulls_back_to_the_behaviour_unlike_the_released_gradient():
    behaviour, target = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    pred = torch.full_like(behaviour, 3.0, requires_grad=True)
    zero = torch.zeros(1)
    nft = torch.autograd.grad(nft_loss(pred, behaviour, target, zero)[0].sum(), pred)[0]
    assert nft.item() > 0
    assert advantage_weighted_loss(pred, behaviour, target, zero)[0].item() == 0


def test_positive_only_ignores_bad_futures():
    pred, behaviour, _, target = numbers()
    loss, _ = positive_only_loss(pred, behaviour, target, torch.tensor([1.0, 0.5, -1.0]).double())
    plain = normalised_error(pred, target)
    torch.testing.assert_close(loss, plain * torch.tensor([1.0, 0.5, 0.0]).double())


def test_the_rivals_weigh_the_same_errors_by_the_reward_or_not_at_all():
    pred, behaviour, _, target = numbers()
    advantage, plain = torch.tensor([1.0, 0.0, -1.0]).double(), normalised_error(pred, target)
    weighted, _ = reward_weighted_loss(pred, behaviour, target, advantage, beta=0.5)
    torch.testing.assert_close(weighted / plain, ((advantage - 1) / 0.5).exp())
    torch.testing.assert_close(imitation_loss(pred, behaviour, target, advantage)[0], plain)


OBJECTIVES = [nft_loss, positive_only_loss, advantage_weighted_loss, reward_weighted_loss, imitation_loss]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_given_latents_enter_neither_loss_nor_normaliser(objective):
    pred, behaviour, _, target = numbers()
    advantage = torch.tensor([1.0, -0.5, 0.2]).double()
    given = torch.tensor([True, False, False, True])
    pred.requires_grad_()
    loss, _ = objective(pred, behaviour, target, advantage, 1.0, given)
    part, _ = objective(pred[:, :, 1:3], behaviour[:, :, 1:3], target[:, :, 1:3], advantage, 1.0, None)
    torch.testing.assert_close(loss, part)
    grad = torch.autograd.grad(loss.sum(), pred)[0]
    assert not grad[:, :, given].any() and grad[:, :, ~given].any()


def test_a_perfect_prediction_costs_nothing_and_divides_by_the_floor():
    same = torch.ones(SHAPE)
    assert not normalised_error(same, same).any()
    nearly = normalised_error(same + 1e-6, same)
    torch.testing.assert_close(nearly, torch.full((3,), 1e-12 / 1e-5), rtol=0.2, atol=0)


def test_the_shift_of_means_is_what_a_whole_picture_has_in_common():
    """Detail alone costs nothing, a shade its square; given latents do not count."""
    pred, reference, _, _ = numbers()
    detail = pred - pred.mean((-2, -1), keepdim=True)
    assert mean_shift(reference + detail, reference).max() < 1e-20
    shade = torch.zeros(SHAPE, dtype=torch.float64)
    shade[1, 1] = 0.3
    expected = torch.tensor([0.0, 0.09 / SHAPE[1], 0.0]).double()
    torch.testing.assert_close(mean_shift(reference + detail + shade, reference), expected)
    given = torch.tensor([True] + [False] * (SHAPE[2] - 1))
    only_given = torch.zeros(SHAPE, dtype=torch.float64)
    only_given[:, :, 0] = 1.0
    assert not mean_shift(reference + only_given, reference, given).any()


def test_kl_is_the_squared_velocity_difference():
    v, v_ref, x_t, _ = numbers()
    sigma = torch.tensor([0.9, 0.5, 0.1]).double()
    s = sigma.view(-1, 1, 1, 1, 1)
    kl = kl_velocity(x_t - s * v, x_t - s * v_ref, sigma)
    torch.testing.assert_close(kl, (v - v_ref).square().mean((1, 2, 3, 4)))


def test_the_velocity_ratio_is_the_inflation_and_only_inflation_costs():
    v_ref, _, x_t, _ = numbers()
    s = torch.tensor([0.9, 0.5, 0.1]).double().view(-1, 1, 1, 1, 1)
    scale = torch.tensor([1.1, 1.0, 0.8]).double()
    ratio = velocity_ratio(x_t - s * scale.view(-1, 1, 1, 1, 1) * v_ref, x_t - s * v_ref, x_t)
    torch.testing.assert_close(ratio, scale, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(excess(ratio), torch.tensor([0.01, 0, 0]).double(), rtol=1e-3, atol=1e-9)


def test_the_contrast_ratio_reads_deviations_and_no_shade():
    reference, _, _, _ = numbers()
    mean = reference.mean((-2, -1), keepdim=True)
    grown = mean + 1.2 * (reference - mean) + 0.7
    torch.testing.assert_close(
        contrast_ratio(grown, reference).flatten().mean(), torch.tensor(1.2).double(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(
    ("weights", "factor", "pull"),
    [
        (Anchors(norm=2.0), 1.2, 1),
        (Anchors(norm=2.0), 0.8, 0),  # a hinge: only inflation costs
        (Anchors(contrast=2.0), 1.2, 1),
        (Anchors(contrast=2.0), 0.8, -1),  # held on both sides
    ],
)
def test_anchors_pull_back_what_has_moved(weights, factor, pull):
    reference, x_t, _, _ = numbers()
    sigma = torch.tensor([0.9, 0.5, 0.3]).double()
    centre = x_t if weights.norm else reference.mean((-2, -1), keepdim=True)
    pred = (centre + factor * (reference - centre)).requires_grad_()
    loss, measured = anchored(torch.zeros(3).double(), pred, reference, x_t, sigma, weights)
    assert bool((loss > 0).all()) == (pull != 0)
    (gradient,) = torch.autograd.grad(loss.sum(), pred)
    outwards = float((gradient * (reference - centre)).sum())
    assert outwards * pull > 0 if pull else float(gradient.abs().max()) == 0
    name = "velocity_norm" if weights.norm else "contrast"
    torch.testing.assert_close(measured[name], torch.full((3,), factor).double(), rtol=1e-4, atol=1e-5)


def test_hinges_of_weight_zero_change_no_bit_and_given_latents_do_not_count():
    pred, reference, x_t, _ = numbers()
    loss, sigma = torch.rand(3).double(), torch.full((3,), 0.5).double()
    given = torch.tensor([True] + [False] * (SHAPE[2] - 1))
    same, measured = anchored(loss, pred, reference, x_t, sigma, Anchors(), given)
    assert torch.equal(same, loss)
    moved = pred.clone()
    moved[:, :, 0] *= 3
    _, again = anchored(loss, moved, reference, x_t, sigma, Anchors(), given)
    assert all(torch.equal(measured[name], again[name]) for name in measured)
    assert row_mean(contrast_ratio(moved, reference)).max() > measured["contrast"].max()
