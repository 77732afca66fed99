"""The frames of each command in rewards and evaluation; the released evaluation is one frame late."""

import pytest
import torch

from worldcompass.geometry import split_label
from worldcompass.types import CameraMoves, Group
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing

LABELS = [0, 9, 1, 27, 3, 18, 2, 36]  # another command at every latent


class Strict:
    """Reads the colour of a clip's 4 transitions: sure of a label only where all of them show it, else of none."""

    def eval(self):
        return self

    def probabilities(self, clips_B53hw):
        seen = clips_B53hw[:, 1:, 0, 0, 0].long()
        label = torch.where((seen == seen[:, :1]).all(1), seen[:, 0], 80)
        one_hot = (torch.nn.functional.one_hot(part, 9).float() for part in split_label(label))
        return tuple(one_hot)


def video(late=0):
    """Frames coloured by the command of the transition that ends in them, or of one ``late`` frames before."""
    colours = torch.tensor(LABELS).repeat_interleave(4)[3:].roll(late)
    return colours.to(torch.uint8)[:, None, None, None].expand(-1, 3, 6, 8)


def actions():
    count = len(LABELS)
    return CameraMoves(torch.tensor(LABELS), torch.eye(4).expand(count, 4, 4), torch.ones(count, 4))


@pytest.mark.parametrize(("late", "right"), [(0, 1.0), (1, 0.0), (-1, 0.0)])
def test_evaluation_reads_every_command_from_its_own_frames(late, right):
    found = LabelReader(Strict()).labels(video(late)[None])[0, 1:]
    assert (found == torch.tensor(LABELS[1:])).float().mean() == right


@pytest.mark.parametrize("chunk", [0, 1])
@pytest.mark.parametrize(("late", "score"), [(0, 1.0), (1, 0.0)])
def test_rewards_read_every_command_from_its_own_frames(chunk, late, score):
    frames, start = video(late), 13 * chunk
    group = Group(
        frames[None, start : start + (16 if chunk else 13)],
        frames[:start],
        frames[0],
        actions().latents(4 * chunk, 4 * chunk + 4),
        frames_per_latent=4,
    )
    scores = InteractionFollowing(Strict())(group)
    assert scores.values_G.tolist() == [score]
