"""Noise levels and the steps between them: flow matching, EDM and DDIM are one Euler step in clean space."""

from itertools import pairwise

import pytest
import torch

from worldcompass.errors import UserError
from worldcompass.noise import (
    ExplicitLevels,
    ShiftedLevels,
    StochasticStep,
    corrupt,
    euler_step,
    fresh_noise_step,
    stochastic,
)
from worldcompass.seeding import generator_for


def normal(*shape, key=0):
    return torch.randn(shape, generator=generator_for("noise", key))


def test_shifted_levels_take_any_number_of_steps():
    assert ShiftedLevels(5.0, 4).sigmas().tolist() == pytest.approx([1, 0.9375, 5 / 6, 0.625, 0])
    assert ShiftedLevels(1.0, 4).sigmas(2).tolist() == [1, 0.5, 0]


def test_explicit_levels_refuse_another_number_of_steps():
    levels = ExplicitLevels((1.0, 0.908843, 0.713979, 0.0))
    assert levels.num_steps == 3 and torch.equal(levels.sigmas(), levels.sigmas(3))
    assert levels.sigmas().tolist() == pytest.approx(levels.levels)
    with pytest.raises(UserError, match="fixed noise levels for 3 denoising steps, got 6: set 3"):
        levels.sigmas(6)


@pytest.mark.parametrize(
    "levels", [(), (0.0,), (1.0, 0.5), (1.0, 0.5, 0.5, 0.0), (0.5, 1.0, 0.0), (1.2, 0.0)]
)
def test_levels_that_do_not_fall_to_0_are_refused(levels):
    with pytest.raises(ValueError, match="must fall from at most 1 to 0"):
        ExplicitLevels(levels)


@pytest.mark.parametrize(("shift", "steps"), [(0.0, 4), (-1.0, 4), (1.0, 0)])
def test_shifted_levels_need_a_positive_shift_and_a_step(shift, steps):
    with pytest.raises(ValueError, match="positive shift and 1 step"):
        ShiftedLevels(shift, steps)


def test_corrupt_mixes_row_by_row():
    clean, noise = normal(2, 2, 1, 3, 2, 2).unbind(0)
    mixed = corrupt(clean, noise, torch.tensor([0.0, 0.25]))
    assert torch.equal(mixed[0], clean[0])
    torch.testing.assert_close(mixed[1], 0.75 * clean[1] + 0.25 * noise[1])


def test_an_euler_step_equals_the_velocity_step_and_is_exact_at_zero():
    noisy, clean = normal(2, 1, 1, 3, 2, 2).unbind(0)
    velocity = (noisy - clean) / 0.8
    torch.testing.assert_close(euler_step(noisy, clean, 0.8, 0.3), noisy + (0.3 - 0.8) * velocity)
    assert torch.equal(euler_step(noisy, clean, 0.8, 0.0), clean)


def test_eulers_step_of_edm_is_the_same_step():
    """In EDM's own numbers ``x = x0 + t n`` and the derivative is ``(x - c) / t``."""
    x, clean, t, next_t = 3 * normal(8), normal(8, key=1), 5.0, 0.7
    own = x + (next_t - t) * (x - clean) / t
    ours = euler_step(x / (1 + t), clean, t / (1 + t), next_t / (1 + next_t))
    torch.testing.assert_close(ours, own / (1 + next_t))


def test_a_ddim_step_with_eta_0_is_the_same_step():
    """In DDIM's own numbers ``x = sqrt(a) x0 + sqrt(1 - a) n`` and the noise that it finds is kept."""
    x, clean, a, next_a = normal(8), normal(8, key=1), torch.tensor(0.3), torch.tensor(0.8)
    noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
    own = next_a.sqrt() * clean + (1 - next_a).sqrt() * noise

    def total(a):
        return a.sqrt() + (1 - a).sqrt()

    levels = [float((1 - at).sqrt() / total(at)) for at in (a, next_a)]
    torch.testing.assert_close(euler_step(x / total(a), clean, *levels), own / total(next_a))


def test_fresh_noise_step_ignores_old_noise_and_ends_without_a_draw():
    noisy, clean, new = normal(3, 5).unbind(0)
    stepped = fresh_noise_step(noisy, clean, 0.8, 0.25, lambda: new)
    torch.testing.assert_close(stepped, 0.75 * clean + 0.25 * new)
    assert torch.equal(fresh_noise_step(-noisy, clean, 0.8, 0.25, lambda: new), stepped)

    def refuse():
        raise AssertionError

    assert fresh_noise_step(noisy, clean, 0.8, 0.0, refuse) is clean


def sde_samples(num_steps, size, mean, spread):
    """Many stochastic walks of a Gaussian, whose best denoiser has a closed form."""
    levels = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64).tolist()
    generator = generator_for("sde")
    x = torch.randn(50_000, generator=generator, dtype=torch.float64)
    step = stochastic(size)
    for s, next_s in pairwise(levels):
        trust = spread**2 * (1 - s) / ((1 - s) ** 2 * spread**2 + s**2)
        clean = mean + trust * (x - (1 - s) * mean)
        fresh = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = step(x, clean, s, next_s, lambda own=fresh: own)
    return x


@pytest.mark.parametrize("size", [0.4, 0.7])
def test_the_stochastic_sampler_ends_at_the_distribution_of_the_flow(size):
    found = sde_samples(100, size, 1.5, 0.6)
    assert float(found.mean()) == pytest.approx(1.5, abs=0.02)
    assert float(found.std()) == pytest.approx(0.6, abs=0.02)


def test_a_stochastic_step_is_that_of_the_paper_and_without_noise_an_euler_step():
    noisy, clean, fresh = normal(3, 1, 1, 3, 2, 2).double().unbind(0)
    s, next_s, size = 0.8, 0.55, 0.7
    v, w = (noisy - clean) / s, size * (s / (1 - s)) ** 0.5
    paper = (
        noisy + (v + w**2 / (2 * s) * (noisy + (1 - s) * v)) * (next_s - s) + w * (s - next_s) ** 0.5 * fresh
    )
    torch.testing.assert_close(stochastic(size)(noisy, clean, s, next_s, lambda: fresh), paper)
    plain = stochastic(0.0)(noisy, clean, s, next_s, pytest.fail)
    torch.testing.assert_close(plain, euler_step(noisy, clean, s, next_s))
    last = stochastic(size)(noisy, clean, s, 0.0, pytest.fail)
    assert torch.equal(last, clean)


def test_a_first_step_from_pure_noise_is_finite():
    step = StochasticStep.between(1.0, 0.75, 0.7)
    assert (step.of_noisy, step.of_clean, step.deviation) == pytest.approx((1 - 0.25 * 1.98, 0.25, 0.7))
