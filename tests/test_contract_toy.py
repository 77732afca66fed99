"""The toy passes the checkers, and every kind of broken adapter or critic is caught."""

import dataclasses

import pytest
import torch
from toy_worlds import FewSteps, LongStart, NoisyContext, NoisyPast, Recorded

from worldcompass.noise import ExplicitLevels
from worldcompass.rollout import RolloutRequest, imagine_groups
from worldcompass.testing import ContractError, check_critic, check_world_model
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.types import Scores
from worldcompass.ways import Walking


@pytest.mark.parametrize("batches_pasts", [True, False])
def test_the_toy_world_keeps_the_contract(batches_pasts):
    check_world_model(ToyWorld(batches_pasts=batches_pasts), toy_scenarios(2))


@pytest.mark.parametrize("make", [FewSteps, NoisyPast, Recorded, lambda: Recorded(2), LongStart])
def test_worlds_with_needs_of_their_own_keep_the_contract(make):
    check_world_model(make(), toy_scenarios(2, 12))


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


class OldAttend(ToyWorld):
    def attend(self, context, actions):
        return super().attend(context, actions)


class NoiseOfNobody(NoisyPast):
    def draw(self, pasts, generators):
        return torch.randn(pasts, 12, 1, 2, 2)


class NoiseOfTheFirst(NoisyPast):
    def draw(self, pasts, generators):
        return torch.randn(pasts, 12, 1, 2, 2, generator=generators[0])


class NoiseWithoutGenerators(NoisyPast):
    def draw(self, pasts, generators):
        return torch.randn(pasts, 12, 1, 2, 2) if generators is None else super().draw(pasts, generators)


class NoiseWhenPredicting(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        past = context.latents_PCMHW + 0.1 * torch.randn_like(context.latents_PCMHW)
        return super().predict_clean(
            noisy, sigma_B, actions, dataclasses.replace(context, latents_PCMHW=past)
        )


class NoiseLostBySelect(NoisyPast):
    def attend(self, context, actions, generators=None):
        return Careless(**vars(super().attend(context, actions, generators)))


class Careless(NoisyContext):
    def select(self, row):
        return dataclasses.replace(super().select(row), noise_PC1HW=torch.zeros(1, 12, 1, 2, 2))


class Hazy(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        clean, haze = super().predict_clean(noisy, sigma_B, actions, context), sigma_B.view(-1, 1, 1, 1, 1)
        return torch.where(context.given_K[:, None, None], clean + 1e-3 * haze, clean)


class Busy(Recorded):
    def predict_clean(self, noisy, sigma_B, actions, context):
        self.net(torch.zeros(1, 1, 4))
        return super().predict_clean(noisy, sigma_B, actions, context)


class Endless(Recorded):
    def __init__(self):
        super().__init__(given=12)


class OneFrame(ToyWorld):
    def __init__(self):
        super().__init__()
        self.spec = dataclasses.replace(self.spec, first_latent_frames=3)


class NeverArriving(ToyWorld):
    def __init__(self):
        super().__init__()
        self.spec = dataclasses.replace(self.spec, sampler=lambda noisy, clean, *_: (noisy + clean) / 2)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (OldAttend, "attend: expected context, actions, generators"),
        (NoiseOfNobody, "attend with equal generators"),
        (NoiseOfTheFirst, "a past alone"),
        (NoiseWithoutGenerators, "attend without generators twice"),
        (NoiseWhenPredicting, "predict_clean twice"),
        (NoiseLostBySelect, "select against"),
        (Hazy, "given latents: expected the same whatever the noise and its level"),
        (Busy, "chunk 0, which is given whole: expected no pass through net"),
        (Endless, "one with a past and something to imagine"),
        (OneFrame, r"decode: expected uint8 \(2, 9, 3, 4, 4\)"),
        (NeverArriving, "spec.sampler from 1 to"),
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
        check_world_model(broken(), toy_scenarios(2, 12))
    assert all(part in str(caught.value) for part in ("expected", "received", "Change:"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"play": Walking(3, 6)}, r"chunk length of the way play: expected one of \(4, 1\), received 3"),
        (
            {"schedule": ExplicitLevels((1.0, 0.5, 0.0)), "play": Walking(1, 4)},
            "steps of the way play: expected those of spec.schedule",
        ),
    ],
)
def test_a_way_of_playing_that_the_model_cannot_walk_is_caught(spec, words):
    world = ToyWorld()
    world.spec = dataclasses.replace(world.spec, **spec)
    with pytest.raises(ContractError, match=words):
        check_world_model(world, toy_scenarios(2))


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
