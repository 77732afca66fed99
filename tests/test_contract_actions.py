"""What ``check_world_model`` says of a world's actions, on the world of four controls that a page builds."""

from dataclasses import replace

import pytest
import torch
from lamp_page import LampWorld, MixedLamp, mixed_walks, walks

from worldcompass.critic import Need
from worldcompass.testing import ContractError, check_critic, check_world_model, noise_group
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.types import ControlValues, Scores

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_world_of_controls_of_three_kinds_keeps_the_contract():
    check_world_model(MixedLamp(), mixed_walks())


class WithoutTilt(LampWorld):
    def commands(self, actions):
        return actions.controls.flat_KA * torch.tensor([1.0, 1, 0, 1])


class TakesACamera(LampWorld):
    def commands(self, actions):
        return actions.cameras.labels_K


class SaysNothing(LampWorld):
    spec = replace(LampWorld.spec, actions=("power", "warmth"))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (
            WithoutTilt,
            "other actions along tilt: expected another prediction, received the same",
        ),
        (
            TakesACamera,
            r"attend and .* a prediction for 4 controls .*Change: read what spec.actions declares",
        ),
        (SaysNothing, "spec.actions: expected CameraActions or Controls, received tuple"),
    ],
)
def test_a_world_that_does_not_do_what_its_actions_say_is_named(broken, words):
    with pytest.raises(ContractError, match=words):
        check_world_model(broken(), walks(2))


def test_scenarios_with_actions_of_another_world_are_named():
    fits, far = walks(2)
    beyond = ControlValues(far.actions.values_KTA + 3)
    with pytest.raises(ContractError, match=r"scenario lamp-1: expected 4 controls .* the control power is"):
        check_world_model(LampWorld(), [fits, replace(far, actions=beyond)])
    with pytest.raises(ContractError, match=r"scenario toy-0-1: expected 4 controls .* got camera poses"):
        check_world_model(LampWorld(), [fits, toy_scenarios(2)[1]])
    with pytest.raises(ContractError, match=r"scenario lamp-0: expected 81 camera motions"):
        check_world_model(ToyWorld(), walks(2))


class LooksOnlyAhead(ToyWorld):
    def predict_clean(self, noisy, sigma_B, actions, context):
        space = self.spec.actions
        level = [
            [space.composite((*space.signs(c)[:3], 0)) for c in row] for row in actions.labels_K.tolist()
        ]
        actions = replace(actions, labels_K=torch.tensor(level))
        return super().predict_clean(noisy, sigma_B, actions, context)


def test_a_camera_that_does_not_look_up_is_named():
    with pytest.raises(ContractError, match="other actions along pitch"):
        check_world_model(LooksOnlyAhead(), toy_scenarios(2))


class Brightness:
    """Is it as bright as the first control asks?"""

    name = "brightness"
    needs: tuple[Need, ...] = ("controls",)

    def __call__(self, group):
        wanted = group.actions.controls.flat_KA[:, 0].mean()
        values = -(group.frames_GF3hw.float().mean((1, 2, 3, 4)) / 255 - wanted).abs()
        return Scores(values, torch.ones_like(values, dtype=torch.bool))


@pytest.mark.parametrize("world", [LampWorld, MixedLamp])
def test_a_critic_of_controls_is_checked_on_noise_of_its_world(world):
    group = noise_group(spec=world.spec)
    assert group.frames_GF3hw.shape[-2:] == world.spec.frame_size
    assert group.frames_GF3hw.shape[1] == world.spec.num_frames(1, 5)
    check_critic(Brightness(), group)
