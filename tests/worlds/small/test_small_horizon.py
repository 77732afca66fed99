"""Long videos: the same as whole ones, measured window by window, and resumed where they were stopped."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from toy_truth import IdealNet, ideal_engine, with_truth

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, imagine_all
from worldcompass.geometry import motion_signs
from worldcompass.judging.horizon import BASE, CHANCE, ENGINE, TRAINED
from worldcompass.toy import CARRY, ToyWorld, latents_of_frames, toy_scenarios
from worldcompass.worlds.small.post_training.evaluation import Exam
from worldcompass.worlds.small.post_training.horizon import (
    BLOCK,
    Asked,
    LongWorld,
    Ruler,
    imagined,
    look_far,
    shown_of,
)
from worldcompass.worlds.small.weights import WeightFiles

OBEYS = 12  # latents for which the base obeys
ASKED = Asked(frames=48, window=8, scenarios=2 * BLOCK)


class Judge:
    """Reads the toy's commands from the last frame of each latent."""

    def labels(self, frames_PF3hw):
        ends = latents_of_frames(frames_PF3hw[:, ::2])[:, :, :4].mean((-2, -1))
        motion = ends[:, 1:] - CARRY * ends[:, :-1]
        known = motion_signs(torch.arange(81)).float()
        read = torch.cdist(motion.flatten(0, 1), known).argmin(1).view(motion.shape[:2])
        return torch.nn.functional.pad(read, (1, 0))

    def realism(self, frames_F3hw):
        return frames_F3hw.float().mean((1, 2, 3))


class Stopped(Exception):
    """In place of a signal, which would stop the tests too."""


class Forgetful(ToyWorld):
    """Obeys for a while, and then no command."""

    def __init__(self, obeys: int = OBEYS, stop_after: int = 10**6) -> None:
        super().__init__()
        self.net, self.obeys, self.left = IdealNet(), obeys, stop_after

    def predict_clean(self, noisy_BCKHW, sigma_B, actions, context):
        if context.num_latents >= self.obeys:
            actions = replace(actions.cameras, labels_K=torch.zeros_like(actions.cameras.labels_K))
        return super().predict_clean(noisy_BCKHW, sigma_B, actions, context)

    def remember(self, context, clean_PCKHW, actions):
        self.left -= 1
        if self.left < 0:
            raise Stopped
        return super().remember(context, clean_PCKHW, actions)


def scenarios(block: int, latents: int):
    return with_truth(ideal_engine(), toy_scenarios(BLOCK, latents, seed=block))


@pytest.fixture
def toy(tmp_path):
    """A long world, and the folder of its trained weights, which obey to the end."""
    for name in ("base", "trained"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "toy_world.safetensors").write_bytes(name.encode())
    made = {None: Forgetful(), tmp_path / "trained": Forgetful(obeys=10**6)}
    return LongWorld(
        ToyWorld().spec,
        WeightFiles("toy", "1", tmp_path / "base"),
        lambda folder, device: made[folder],
        scenarios,
        lambda: Exam(Judge(), Judge(), {"dark": lambda video, scenario: np.ones(len(video))}),
    )


def test_a_world_that_forgets_breaks_down_where_it_forgets_and_one_that_obeys_does_not(toy, tmp_path):
    found = look_far(toy, tmp_path / "trained", tmp_path / "out", ASKED, "cpu")
    assert found.breakdown(BASE, FOLLOWED).frame == 2 * OBEYS
    assert found.broke_down(BASE) == 2 * OBEYS and found.broke_down(TRAINED) is None
    engine, chance = (np.mean(found.curve(side, FOLLOWED).mean) for side in (ENGINE, CHANCE))
    assert engine > 0.6 > 0.2 > chance
    change = found.change(FOLLOWED)
    assert change.mean[0] == 0 and change.low[-1] > 0.3
    assert found.ruled == (FOLLOWED, "dark") and "drift" not in found.sides[BASE].values_VD
    strip = cv2.imread(str(tmp_path / "out" / "filmstrips" / "toy-1-0.png"))
    assert strip is not None and len(list((tmp_path / "out" / "filmstrips").iterdir())) == ASKED.scenarios


def test_a_windows_measures_are_those_of_the_same_frames_of_the_whole_video(toy):
    latents = ASKED.latents(toy.spec)
    some = scenarios(0, latents)
    videos = torch.stack([s.truth.frames_F3hw for s in some])
    whole = Judge().labels(videos) == torch.stack([s.actions.labels_K for s in some])
    ruler = Ruler(toy, ASKED)
    for index in (0, 2, 5):
        frames = videos[:, 8 * index : 8 * index + 9]
        found = ruler.window(frames, some, index)
        right = whole[:, 4 * index + 1 : 4 * index + 5].float().mean(1)
        assert found.values_VD[FOLLOWED][:, 0].tolist() == right.tolist()
        assert not found.values_VD["colour"].any(), "the truth of the same frames"


def test_chunk_by_chunk_a_video_is_the_one_that_is_imagined_whole():
    world, some = Forgetful(), scenarios(0, 20)
    parts = list(imagined(world, some, ("evaluation", 3)))
    assert [part.shape[1] for part in parts] == [7, 8, 8, 8, 8]
    assert torch.cat(parts, 1).equal(imagine_all(world, some, 3))


def test_a_stopped_measurement_goes_on_and_says_the_same_as_one_that_was_not_stopped(toy, tmp_path):
    def look(out: str, world: Forgetful, asked: Asked = ASKED):
        """Base and trained are the same world here, which counts their chunks."""
        of = replace(toy, load=lambda *_: world)
        return look_far(of, tmp_path / "trained", tmp_path / out, asked, "cpu")

    whole = look("whole", Forgetful())
    chunks = ASKED.latents(toy.spec) // 4
    with pytest.raises(Stopped):
        look("out", Forgetful(stop_after=3 * chunks + 2))  # in the second model of the second block
    assert not (tmp_path / "out" / "horizon.json").exists()
    rest = Forgetful(stop_after=chunks)
    assert look("out", rest).to_json() == whole.to_json() and rest.left == 0
    more = Forgetful(stop_after=2 * chunks)
    grown = look("out", more, replace(ASKED, scenarios=3 * BLOCK))
    assert more.left == 0 and grown.scenarios == 3 * BLOCK
    with pytest.raises(UserError, match="other seed"):
        look("out", more, replace(ASKED, seed=1))


def test_an_engine_that_plays_otherwise_than_before_is_refused(toy, tmp_path):
    look_far(toy, None, tmp_path / "out", ASKED, "cpu")
    (tmp_path / "out" / "blocks" / "1_base.json").unlink()
    other = replace(toy, scenarios=lambda block, latents: scenarios(block + 5, latents))
    with pytest.raises(UserError, match="the engine plays other scenarios"):
        look_far(other, None, tmp_path / "out", ASKED, "cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--frames", "130"], "--frames 130 is no multiple of the window of 100 frames"),
        (["--window", "50", "--frames", "100"], "--window 50 is no multiple of 4"),
        (["--scenarios", "6"], "--scenarios 6 is no multiple of 4"),
        (["--checkpoint", "nowhere"], "nowhere does not exist"),
    ],
)
def test_numbers_that_do_not_fit_are_one_sentence_before_anything_is_imagined(
    options, words, tmp_path, capsys
):
    out = tmp_path / "out"
    assert cli.main(["horizon", "--world", "hands", *options, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not out.exists()


def test_a_filmstrip_shows_the_frames_of_the_log_and_the_last_one():
    assert shown_of(1500) == [0, 125, 250, 500, 1000, 1500]
    assert shown_of(400) == [0, 125, 250, 400] and shown_of(3000) == [
        0,
        125,
        250,
        500,
        1000,
        1500,
        2000,
        3000,
    ]
