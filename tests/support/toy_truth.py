"""Scenarios of the toy world with an engine behind them: another toy's imagination."""

import dataclasses

from worldcompass.rollout import imagine_video
from worldcompass.types import Truth


def with_truth(world, scenarios):
    videos = imagine_video(world, scenarios, ("truth",))
    return [
        dataclasses.replace(s, image_3hw=video[0], truth=Truth(video, s.actions))
        for s, video in zip(scenarios, videos, strict=True)
    ]
