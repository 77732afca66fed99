"""Timesteps, noise levels and samplers of Nano World Models."""

import pytest
import torch
from nano_tiny import noising_of

from worldcompass.noise import corrupt

PREDICTIONS = ["v", "flow", "x", "epsilon"]


@pytest.mark.parametrize("regime", ["full", "respaced"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_level_of_a_rollout_returns_its_own_timestep(prediction, regime):
    noising = noising_of(prediction)
    for steps in (1, 7, 26, 50, 250):
        levels = noising.levels(steps, regime).sigmas()
        assert noising.timesteps(levels[:-1]).tolist() == noising.told(steps, regime)


def test_levels_between_timesteps_get_a_fraction_and_the_ends_stay_in_range():
    noising = noising_of("flow")
    found = noising.timesteps(torch.tensor([0.0, 1e-4, 0.0015, 0.5005, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 0.5, 499.5, 999]), atol=1e-3, rtol=0)
    assert float(noising_of("epsilon").timesteps(torch.ones(1))) == 999


def test_timesteps_are_cut_off_in_float32_as_officially():
    """84 step counts come out lower somewhere than exactly, such as 26; those that divide 1000 do not."""

    def exact(steps):
        return [(1000 * j) // steps - 1 for j in range(1, steps + 1)][::-1]

    noising = noising_of("v")
    lower = [n for n in range(1, 1001) if noising.told(n) != exact(n)]
    assert len(lower) == 84
    assert lower[:5] == [26, 52, 60, 104, 120]
    assert all(1000 % n for n in lower)
    assert noising.told(26) == noising_of("flow").told(26)


def test_both_samplers_say_979_at_step_1_and_differ_at_step_2():
    full, respaced = noising_of("v").told(50), noising_of("v").told(50, "respaced")
    assert full[:3] == [999, 979, 959]
    assert respaced[:3] == [999, 979, 958]
    assert noising_of("flow").told(50, "respaced") == full


def test_flow_levels_of_50_steps_are_even():
    levels = noising_of("flow").levels(50).sigmas()
    torch.testing.assert_close(levels, torch.linspace(1, 0, 51), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("steps", "regime", "told"),
    [
        (50, "full", 20),
        (250, "full", 20),
        (26, "respaced", 0),
        (27, "respaced", 38),
        (50, "respaced", 20),
        (250, "respaced", 20),
    ],
)
def test_remembered_latents_are_noised_to_the_timestep_of_the_sampler(steps, regime, told):
    assert noising_of("v").stabilization_timestep(steps, regime) == told


def test_the_level_of_the_noise_depends_on_the_parameterisation():
    assert float(noising_of("flow").sigmas_T[20]) == pytest.approx(0.021)
    assert float(noising_of("v").sigmas_T[20]) == pytest.approx(0.0417, abs=1e-4)
    assert noising_of("v", stabilization=0.0).stabilization_timestep(50) is None


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_output_gives_the_clean_latent_at_every_level(prediction):
    noising, generator = noising_of(prediction), torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 5, 3, 1, 2, 2, generator=generator)
    sigma = torch.tensor([1e-3, 0.2, 0.5, 0.9, 0.99])
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = corrupt(clean, noise, sigma)
    radius = ((1 - level) ** 2 + level**2).sqrt()
    outputs = {
        "v": ((1 - level) * noise - level * clean) / radius,
        "flow": clean - noise,
        "x": clean,
        "epsilon": noise,
    }
    torch.testing.assert_close(noising.clean(outputs[prediction], noisy, sigma), clean, atol=1e-4, rtol=0)
    variance = noising.scaled(noisy, sigma).var() if prediction != "flow" else torch.ones(())
    assert 0.5 < variance < 2, "the network of the others reads latents of variance 1"


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_pure_noise_gives_finite_estimates_and_gradients(prediction):
    """A signal of exactly 0 must not be divided by, even where the result is thrown away."""
    noising, output = noising_of(prediction), torch.ones(1, 3, 1, 2, 2, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        clean = noising.clean(output, torch.ones(1, 3, 1, 2, 2), torch.ones(1))
        clean.sum().backward()
    assert clean.isfinite().all()
    assert output.grad.isfinite().all()
    assert noising.levels(10).levels[0] == (pytest.approx(0.9937, abs=1e-4) if prediction == "epsilon" else 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prediction": "noise"}, "expected one of v, flow, x, epsilon"),
        ({"betas": "sigmoid"}, "expected one of squaredcos_cap_v2, linear"),
        ({"prediction": "epsilon", "zero_terminal_snr": True}, "diverges"),
        ({"prediction": "epsilon", "betas": "squaredcos_cap_v2"}, "diverges"),
        ({"stabilization": 1.5}, "expected a level from 0"),
        ({"num_timesteps": 1}, "expected 2 timesteps or more"),
    ],
)
def test_what_no_checkpoint_has_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        noising_of(**changes)


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(ValueError, match="num_steps is 1001: expected 1 to 1000"):
        noising_of("v").told(1001)
