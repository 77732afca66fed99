"""The toy passes the checkers, and every kind of broken adapter or critic is caught."""

import dataclasses

import pytest
import torch

from worldcompass.rollout import RolloutRequest, imagine_groups
from worldcompass.testing import ContractError, check_critic, check_world_model
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.types import Scores


@pytest.mark.parametrize("batches_pasts", [True, False])
def test_the_toy_world_keeps_the_contract(batches_pasts):
    check_world_model(ToyWorld(batches_pasts=batches_pasts), toy_scenarios(2))


class Rows(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        return super().predict_clean(noisy, sigma_B, actions, context) + 1e-3 * noisy.mean()


class OneSigma(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        return super().predict_clean(noisy, sigma_B[:1].expand_as(sigma_B), actions, context)


class Deaf(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        still = dataclasses.replace(actions, labels_K=torch.zeros_like(actions.labels_K))
        return super().predict_clean(noisy, sigma_B, still, context)


class Detached(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        return super().predict_clean(noisy, sigma_B, actions, context).detach()


class Unattended(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        return super().predict_clean(noisy, sigma_B, actions, self.attend(context, actions))


class Half(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        return super().predict_clean(noisy, sigma_B, actions, context).double()


class Overwriting(ToyWorld):
    def remember(self, context, clean, actions):
        after = super().remember(context, clean, actions)
        context.recording_PCMHW.add_(clean[:, :, 0].mean())
        return after


class Forgetful(ToyWorld):
    def remember(self, context, clean, actions):
        return context


class Jumping(ToyWorld):
    def decode(self, clean, context):
        fresh = dataclasses.replace(context, latents_PCMHW=torch.zeros_like(context.latents_PCMHW))
        return super().decode(clean, fresh)


class Short(ToyWorld):
    def decode(self, clean, context):
        return super().decode(clean, context)[:, 1:]


class Crossed(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        order = torch.arange(context.num_pasts).flip(0)
        other = dataclasses.replace(context, latents_PCMHW=context.latents_PCMHW[order])
        return super().predict_clean(noisy, sigma_B, actions, other)


class Loose(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        return super().predict_clean(noisy, sigma_B, actions, context) + 1e-2 * noisy


class Global(ToyWorld):
    def begin(self, scenarios):
        context = super().begin(scenarios)
        return dataclasses.replace(context, recording_PCMHW=torch.randn_like(context.recording_PCMHW))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Rows, "a batch against single calls"),
        (OneSigma, "different sigmas"),
        (Deaf, "other actions"),
        (Detached, "gradient"),
        (Unattended, "without attend"),
        (Half, "float32"),
        (Overwriting, "remember"),
        (Forgetful, "remember"),
        (Jumping, "decoding the whole"),
        (Short, "decode"),
        (Crossed, "select"),
        (Loose, "given latents"),
        (Global, "begin twice"),
    ],
)
def test_a_broken_adapter_is_caught_with_expectation_finding_and_remedy(broken, words):
    with pytest.raises(ContractError, match=words) as caught:
        check_world_model(broken(), toy_scenarios(2))
    assert all(part in str(caught.value) for part in ("expected", "received", "Change:"))


def test_an_impossible_spec_is_caught():
    world = ToyWorld()
    world.spec = dataclasses.replace(world.spec, frames_per_latent=0)
    with pytest.raises(ContractError, match="positive sizes"):
        check_world_model(world, toy_scenarios(2))


def toy_group():
    world, scenarios = ToyWorld(), toy_scenarios(1)
    return imagine_groups(world, RolloutRequest(scenarios, 1, 4, 3, (0,), world.spec.sigmas()))[0].groups[0]


@pytest.mark.parametrize("critic", [ToyObedience(), ToyCleanliness()])
def test_the_toy_critics_keep_the_contract(critic):
    check_critic(critic, toy_group())


class Scaled:
    """A critic that can be broken in one place."""

    name = "scaled"

    def __init__(self, change):
        self.change = change

    def __call__(self, group):
        values = group.frames_GF3hw.float().mean((1, 2, 3, 4))
        return self.change(group, Scores(values, torch.ones(len(values), dtype=torch.bool)))


def write(group, scores):
    group.frames_GF3hw[:] = 0
    return scores


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g, s: Scores(s.values_G[:1], s.valid_G), "shape"),
        (lambda g, s: Scores(s.values_G.double(), s.valid_G), "float32"),
        (lambda g, s: Scores(s.values_G * torch.nan, s.valid_G), "finite"),
        (lambda g, s: Scores(s.values_G, s.valid_G.float()), "valid_G"),
        (lambda g, s: Scores(s.values_G + torch.rand(1), s.valid_G), "second call"),
        (lambda g, s: Scores(s.values_G + torch.arange(len(s.values_G)), s.valid_G), "reordered"),
        (lambda g, s: Scores(s.values_G - s.values_G.mean(), s.valid_G), "one alone"),
        (write, "left as it was"),
    ],
)
def test_a_broken_critic_is_caught(change, words):
    with pytest.raises(ContractError, match=words):
        check_critic(Scaled(change))


def test_a_plain_critic_passes_on_noise():
    check_critic(Scaled(lambda group, scores: scores))
