"""Every promise of the contract that ``test_contract_toy`` leaves out is broken once, and named."""

import dataclasses

import pytest
import torch

from worldcompass.testing import ContractError, check_world_model
from worldcompass.toy import ToyWorld, toy_scenarios


class BegunLate(ToyWorld):
    def begin(self, scenarios):
        context = super().begin(scenarios)
        return dataclasses.replace(context, latents_PCMHW=context.recording_PCMHW)


class TwoForOne(ToyWorld):
    def begin(self, scenarios):
        return super().begin([*scenarios, *scenarios])


class MarkedAtOnce(ToyWorld):
    def begin(self, scenarios):
        return dataclasses.replace(super().begin(scenarios), given_K=torch.ones(4, dtype=torch.bool))


class MarkedByNumbers(ToyWorld):
    def attend(self, context, actions, generators=None):
        attended = super().attend(context, actions)
        return dataclasses.replace(attended, given_K=attended.given_K.long())

    def predict_clean(self, noisy, sigma_B, actions, context):
        if context.given_K is not None:
            context = dataclasses.replace(context, given_K=context.given_K.bool())
        return super().predict_clean(noisy, sigma_B, actions, context)


class WithoutAChannel(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        return super().predict_clean(noisy, sigma_B, actions, context)[:, 1:]


class Overflowing(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        return super().predict_clean(noisy, sigma_B, actions, context) + torch.inf


class AttendsInPlace(ToyWorld):
    def attend(self, context, actions, generators=None):
        object.__setattr__(context, "given_K", super().attend(context, actions).given_K)
        return context


class RemembersByAttention(ToyWorld):
    def remember(self, context, clean, actions):
        return super().remember(context, clean + 0.1 * (context.given_K is not None), actions)


class OffItsInput(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        return super().predict_clean(noisy, sigma_B, actions, context) + 0.5


class TrainsNothing(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        unused = sum(parameter.sum() for parameter in self.net.parameters())
        return super().predict_clean(noisy, sigma_B, actions, context).detach() + 0 * unused


class KeepsGradients(ToyWorld):
    def begin(self, scenarios):
        context = super().begin(scenarios)
        return dataclasses.replace(
            context, recording_PCMHW=context.recording_PCMHW + 0 * self.net.outer.bias.sum()
        )


class EncodesTooLittle(ToyWorld):
    def encode(self, frames):
        return super().encode(frames)[:, :, 1:]


class EncodesInDouble(ToyWorld):
    def encode(self, frames):
        return super().encode(frames).double()


class EncodesFromTheFuture(ToyWorld):
    def encode(self, frames):
        latents = super().encode(frames)
        return latents + latents[:, :, -1:]


class OnePastForAll(ToyWorld):
    def begin(self, scenarios):
        return super().begin(scenarios[:1])


class DecodesOtherPasts(ToyWorld):
    def decode(self, clean, context):
        other = dataclasses.replace(context, latents_PCMHW=context.latents_PCMHW.flip(0))
        return super().decode(clean, other)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (BegunLate, "begin: expected num_latents 0, received 1"),
        (TwoForOne, "begin: expected 1 past, received 2"),
        (MarkedAtOnce, "begin: expected given_K None"),
        (MarkedByNumbers, r"attend: expected given_K bool \(4,\)"),
        (WithoutAChannel, r"predict_clean: expected shape \(1, 12, 4, 2, 2\), received \(1, 11, 4, 2, 2\)"),
        (Overflowing, "predict_clean: expected finite values"),
        (AttendsInPlace, "attend: expected its argument untouched"),
        (RemembersByAttention, "remember on an attended context"),
        (OffItsInput, "predict_clean at sigma 0.001: expected the input itself"),
        (TrainsNothing, "backward: expected gradients in net, received none"),
        (KeepsGradients, "contexts: expected no gradient"),
        (EncodesTooLittle, "encode: expected shape"),
        (EncodesInDouble, "encode: expected float32"),
        (EncodesFromTheFuture, "encode of a shorter video: expected the same first latents"),
        (OnePastForAll, "begin of 2 scenarios: expected 2 pasts, received 1"),
        (DecodesOtherPasts, "decode of 2 pasts: expected frames as of one"),
    ],
)
def test_a_broken_promise_is_named(broken, words):
    with pytest.raises(ContractError, match=words):
        check_world_model(broken(), toy_scenarios(2, 12))


def test_a_single_scenario_is_too_few_to_check_a_world():
    with pytest.raises(ContractError, match="scenarios: expected at least 2, received 1"):
        check_world_model(ToyWorld(), toy_scenarios(1))


def test_a_world_without_a_length_of_chunks_is_named():
    world = ToyWorld()
    world.spec = dataclasses.replace(world.spec, chunk_lengths=())
    with pytest.raises(ContractError, match=r"spec\.chunk_lengths: expected one length or more"):
        check_world_model(world, toy_scenarios(2))
