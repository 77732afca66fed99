"""A pocket world for recordings: two controls move a patch, a button lights the ground, a knob does nothing."""

import json

import numpy as np
import torch

from worldcompass.controls import Axis, Controls, button
from worldcompass.media.video import write_mp4
from worldcompass.noise import ShiftedLevels
from worldcompass.rewards.inverse_dynamics.footage import footage_of
from worldcompass.types import ControlValues, Group
from worldcompass.world import WorldSpec

SIZE, PATCH, PER_LATENT, SPEED = 32, 10, 4, 1.5  # pixels, frames, pixels a frame at full command
SPEC = WorldSpec(
    name="pocket",
    latent_shape=(4, 4, 4),
    chunk_lengths=(4,),
    frames_per_latent=PER_LATENT,
    fps=20.0,
    frame_size=(SIZE, SIZE),
    schedule=ShiftedLevels(shift=2.0, num_steps=4),
    actions=Controls(
        (Axis("x", words=("left", "right")), Axis("y", words=("up", "down")), button("lamp"), Axis("knob"))
    ),
    batches_pasts=True,
)
_RNG = np.random.default_rng(0)
GROUND = _RNG.integers(20, 90, (SIZE // 4, SIZE // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
SKIN = _RNG.integers(120, 250, (PATCH // 2, PATCH // 2, 3), np.uint8).repeat(2, 0).repeat(2, 1)


def draw(commands_K4, seed=0):
    """Frames (F, 3, h, w) of a start and these commands; the patch goes round at the edges."""
    place = np.random.default_rng(seed).uniform(0, SIZE, 2)
    frames = []
    for step in [np.zeros(4), *np.repeat(np.asarray(commands_K4, float), PER_LATENT, 0)]:
        place = place + SPEED * step[[1, 0]]
        frame = GROUND + np.uint8(50 * (step[2] > 0.5))
        rows, columns = ((place[axis].round().astype(int) + np.arange(PATCH)) % SIZE for axis in (0, 1))
        frame[np.ix_(rows, columns)] = SKIN
        frames.append(frame)
    return torch.from_numpy(np.stack(frames)).movedim(-1, 1)


def commands(seed, latents=16):
    """Random commands (K, 4), each held for a few latents."""
    rng = np.random.default_rng((seed, 1))
    knobs = [rng.integers(-1, 2, 99) for _ in range(3)]
    held = np.stack([*knobs[:2], rng.random(99) < 0.4, knobs[2]], 1)
    return held.repeat(rng.integers(1, 4, 99), 0)[:latents].astype(np.float32)


def actions_of(commands_K4):
    """The actions of a recording, that of the start included."""
    values = torch.from_numpy(np.concatenate([np.zeros((1, 4), np.float32), commands_K4]))
    return ControlValues(values[:, None])


def footage(numbers, latents=16):
    """Recordings in memory."""
    made = [(number, commands(number, latents)) for number in numbers]
    return [footage_of(f"play{n:02}", draw(c, n), actions_of(c), SPEC) for n, c in made]


def record(folder, count, latents=16, fps=20.0):
    """Recordings on disk: ``play00.mp4`` with the values of all controls in ``play00.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        played = commands(number, latents)
        write_mp4(folder / f"play{number:02}.mp4", draw(played, number), fps)
        values = {name: played[:, i].tolist() for i, name in enumerate(SPEC.actions.axes)}
        (folder / f"play{number:02}.json").write_text(json.dumps({"controls": values}))
    return folder


class Pocket:
    """A world that says what it is and imagines nothing."""

    spec = SPEC


def make(weights, device):
    return Pocket()


def group_of(path, *candidates, seed=7):
    """The last four latents of a video along a path, with candidates made of their frames and those before.

    The first one is the truth.
    """
    actions = SPEC.actions.along(path)
    video = draw(actions.controls.values_KTA[1:, 0].numpy(), seed)
    cut = SPEC.num_frames(0, len(actions) - 4)
    frames = torch.stack([video[cut:], *(make(video[cut:], video[:cut]) for make in candidates)])
    return Group(frames, video[:cut], video[0], actions.latents(len(actions) - 4, len(actions)), PER_LATENT)
