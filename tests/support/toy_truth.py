"""Scenarios of the toy world with an engine behind them: another toy's imagination."""

import dataclasses

from torch import nn

from worldcompass.rollout import imagine_video
from worldcompass.toy import ToyNet, ToyWorld
from worldcompass.types import Truth


class IdealNet(ToyNet):
    """Obeys every command and has no grain."""

    def forward(self, signs_PK4):
        return nn.functional.pad(signs_PK4, (0, 8))


def ideal_engine():
    """The toy world that both of its rewards want."""
    world = ToyWorld()
    world.net = IdealNet()
    return world


def with_truth(world, scenarios):
    videos = imagine_video(world, scenarios, ("truth",))
    return [
        dataclasses.replace(s, image_3hw=video[0], truth=Truth(video, s.actions))
        for s, video in zip(scenarios, videos, strict=True)
    ]
