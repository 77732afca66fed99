"""The judge of worlds without an engine: half of the recordings are judged, half are the floor."""

import dataclasses

import pytest
import torch
from recorded import record
from safetensors.torch import save_file

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.judging.recorded import JUDGED_WIDTH, recorded_scenes, smaller
from worldcompass.judging.verdict import Judgement
from worldcompass.toy import ToyWorld

SPEC = dataclasses.replace(ToyWorld().spec, frame_size=(48, 64), fps=24.0, frames_per_latent=4)

OWN = '''
"""A user's own world: the toy world at the size and rate of the recordings."""
import dataclasses
import torch
from safetensors.torch import load_file
from worldcompass.toy import ToyWorld

class Own(ToyWorld):
    def __init__(self, weights):
        super().__init__(seed=0)
        if weights is not None:
            self.net.load_state_dict(load_file(weights / "net.safetensors"))
        self.spec = dataclasses.replace(self.spec, fps=24.0)

def make(weights, device):
    return Own(weights)
'''


def test_every_second_recording_is_judged_and_the_others_are_the_floor(tmp_path):
    folder = record(tmp_path, count=18)
    found = recorded_scenes(folder, SPEC, 16)("judge", 8)
    assert [s.id for s in found.scenarios] == [f"walk{i:02}" for i in range(0, 16, 2)] == found.groups
    assert [s.id for s in found.others] == [f"walk{i:02}" for i in range(1, 16, 2)]
    assert found.scenarios[0].truth.frames_F3hw.shape == (61, 3, 48, 64)
    assert set(found.regions) == {"recordings"}


def test_too_few_recordings_and_other_lengths_are_refused(tmp_path):
    folder = record(tmp_path, count=9, frames=13)
    (tmp_path / "walk08.mp4").unlink()
    with pytest.raises(UserError, match=r"of 4 scenarios needs 16 recordings, .* holds 8"):
        recorded_scenes(folder, SPEC, 16, lambda file, space: space.along("w-15"))("judge", 4)
    for latents in (12, 18):
        with pytest.raises(UserError, match=f"--latents is {latents}: expected a multiple of 4, 16 or more"):
            recorded_scenes(folder, SPEC, latents)


def test_large_pictures_are_averaged_by_a_whole_factor_and_small_ones_kept():
    wide = torch.arange(4 * 416, dtype=torch.float32).remainder(256).byte().view(1, 1, 1, 4, 416)
    frames = wide.expand(2, 3, 3, 4, 416)
    found = smaller(frames)
    blocks = frames.float().unflatten(-1, (208, 2)).unflatten(-3, (2, 2)).mean((-1, -3)).round().byte()
    assert found.shape == (2, 3, 3, 2, JUDGED_WIDTH) and torch.equal(found, blocks)
    assert torch.equal(smaller(found), found)


def test_the_command_films_a_users_own_world_once_and_judges_it(tmp_path, monkeypatch):
    """The toy's pictures are too small for the judge's networks, so a stand-in judges."""
    (tmp_path / "my_world.py").write_text(OWN)
    record(tmp_path / "recordings", path="w-8, right-7", frames=31)
    save_file(ToyWorld(seed=1).net.state_dict(), tmp_path / "net.safetensors")
    seen = []

    def stand_in(sources, seed, asked, advance):
        seen.append(sources)
        return Judgement(len(sources.scenarios), sources.seeds, sources.frames, "", seed, (), ())

    monkeypatch.setattr("worldcompass.judging.judge.judge", stand_in)
    monkeypatch.chdir(tmp_path)
    words = ["judge", ".", "--world", "my_world.py:make", "--recordings", "recordings", "--latents", "16"]
    words += ["--device", "cpu", "--out", "out"]
    cli.main(words)
    (found,) = seen
    assert found.engine_SF3hw.shape == (8, 31, 3, 4, 4) and found.steps.first_frame == 23
    ends = slice(None, None, 2)  # the toy's autoencoder shows the last frame of every latent whole
    apart = (found.reachable_SF3hw[:, ends].int() - found.engine_SF3hw[:, ends].int()).abs().max()
    assert apart <= 1 and not torch.equal(found.flat("base"), found.flat("trained"))
    (tmp_path / "out" / "judgement.json").unlink()
    monkeypatch.setattr("worldcompass.judging.court.imagine", None)
    cli.main(words)
    assert torch.equal(seen[1].flat("trained"), found.flat("trained"))
    save_file(ToyWorld(seed=2).net.state_dict(), tmp_path / "net.safetensors")
    assert cli.main(words) == 2


def test_a_world_without_an_engine_needs_recordings_and_one_with_an_engine_has_its_own(tmp_path, capsys):
    assert cli.main(["judge", str(tmp_path), "--world", "my_world.py:make", "--device", "cpu"]) == 2
    assert "has no engine: give recordings of the real thing" in capsys.readouterr().err
    assert cli.main(["judge", str(tmp_path), "--world", "nosuch"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: there is no world 'nosuch': expected doom, hands, FILE.py:FUNCTION, or a recipe of"
    )
    assert "nano" in said
    assert cli.main(["judge", str(tmp_path), "--recordings", str(tmp_path)]) == 2
    assert "has its own scenarios: leave out --recordings" in capsys.readouterr().err
