"""Pick-ups: the engine's truth, scenes that only pictures tell apart, the measures, and the embedded critic."""

import dataclasses
import importlib.resources
import json

import numpy as np
import pytest
import torch

from worldcompass import cli
from worldcompass.audit.clips import CHUNK, NO_ITEM, OTHER_ITEM
from worldcompass.errors import UserError
from worldcompass.testing import check_critic, noise_group
from worldcompass.types import Scores
from worldcompass.worlds.doom.audits import pickup_clips
from worldcompass.worlds.doom.critic_training import pickup_fit as pickup_training
from worldcompass.worlds.doom.critic_training.pickup_data import SPLITS, SceneFrames, collect_scenes
from worldcompass.worlds.doom.critic_training.pickup_fit import (
    Labelled,
    labelled,
    pickup_loss,
    played_of,
    train_reader,
)
from worldcompass.worlds.doom.critic_training.pickup_score import judge_marks, mark, outcome_of, threshold_of
from worldcompass.worlds.doom.critics.pickup import PickupReader, taken_at_all
from worldcompass.worlds.doom.engine.engine import Engine
from worldcompass.worlds.doom.engine.items import ITEMS, items_named
from worldcompass.worlds.doom.engine.maps import find_map
from worldcompass.worlds.doom.engine.pickup_scenes import (
    LATENTS,
    PATHS,
    draw_scenes,
    load_scenes,
    replay_scenes,
    save_scenes,
)
from worldcompass.worlds.doom.rewards.pickup import PickupFollowing

WEIGHTS = importlib.resources.files("worldcompass.worlds.doom") / "weights"


@pytest.fixture(scope="module")
def scenes():
    """One scene of every kind of walk."""
    return draw_scenes([find_map("simpler_basic")], len(PATHS), 5, "test")


class Sees:
    """A critic that knows the truth; flawed in the ways that a test asks for."""

    name = "sees"

    def __init__(self, scenes, mistake=lambda group, truth: truth):
        self.truth = {}
        for played in scenes:
            for word in played.scene.words:
                group = played.group(word)
                self.truth[group.instruction, group.frames_GF3hw.sum().item()] = played.truth_G(word)
        self.mistake = mistake

    def __call__(self, group):
        truth = self.truth[group.instruction, group.frames_GF3hw.sum().item()]
        values = torch.tensor(self.mistake(group, truth.astype(float)), dtype=torch.float32)
        return Scores(values.nan_to_num(0), ~values.isnan())


def test_the_counters_say_what_was_taken_and_the_thing_is_gone():
    with Engine(find_map("simpler_basic"), labels=True) as engine:
        camera = engine.reset(3).cameras_F5[-1]
        place = (float(camera[0]), float(camera[2]), float(camera[3]))
        yaw = np.deg2rad(place[2])
        at = (place[0] + 100 * np.sin(yaw), place[1] + 100 * np.cos(yaw))
        for item in ITEMS:
            engine.reset(3)
            engine.furnish([(item.actor, *at)], place, health=50)
            assert engine.variable("HEALTH") == 50 and item.actor in engine.in_view()
            before = {i.word: engine.variable(i.variable) for i in ITEMS}
            for _ in range(5):
                engine.act(9)  # forward
            gains = {i.word: engine.variable(i.variable) - before[i.word] for i in ITEMS}
            assert [i.word for i in ITEMS if gains[i.word] >= i.gain] == [item.word]
            engine.furnish([], place)
            assert item.actor not in engine.in_view()


def test_scenes_show_both_outcomes_and_nothing_else_differs(scenes):
    assert [p.scene.path for p in scenes] == list(PATHS)
    for played in scenes:
        scene = played.scene
        words = [None if t is None else t[0] for t in scene.taken]
        assert words == [*scene.words, None] and len(set(scene.words)) == 2
        assert played.frames_GF3hw.shape == (3, 45, 3, 48, 64) and len(scene.labels) == LATENTS
        for g, word in enumerate(words):
            assert played.truth_G(scene.words[0])[g] == (word == scene.words[0])
        # The walk is one: where a thing cannot be seen any more, the clips are the same picture.
        start, end = (played.frames_GF3hw[:, i].float() for i in (0, -1))
        assert (start[0] - start[1]).abs().max() > 30
        assert (end[0] - end[2]).abs().mean() < 12 and (start[0] - start[2]).abs().mean() < 12


def test_scenes_are_a_function_of_their_seed_and_replay_exactly(scenes, tmp_path):
    again = draw_scenes([find_map("simpler_basic")], 1, 5, "test")
    assert [p.scene for p in again] == [p.scene for p in scenes[:1]]
    assert draw_scenes([find_map("simpler_basic")], 1, 5, "other")[0].scene != scenes[0].scene
    save_scenes(tmp_path / "scenes.json", [p.scene for p in scenes])
    loaded = load_scenes(tmp_path / "scenes.json")
    assert loaded == [p.scene for p in scenes]
    assert torch.equal(replay_scenes(loaded[1:2])[0].frames_GF3hw, scenes[1].frames_GF3hw)
    other = dataclasses.replace(loaded[0], taken=(None, None, None))
    with pytest.raises(UserError, match="does not repeat scene test/simpler_basic/0"):
        replay_scenes([other])


def test_the_audit_s_clips_are_the_chunks_in_which_the_item_is_taken(scenes, monkeypatch):
    monkeypatch.setattr("worldcompass.worlds.doom.engine.pickup_scenes.draw_scenes", lambda *_: scenes)
    clips = pickup_clips(0, 1)
    late = [(p, t) for p in scenes for t in p.scene.taken if t is not None and t[1] >= CHUNK]
    assert len(clips) == len(late) > 0
    for clip, (played, (word, latent)) in zip(clips, late, strict=True):
        video, shown = played.frames_GF3hw, torch.cat([clip.past_F3hw, clip.frames_F3hw])
        assert clip.instruction == f"pick up the {word}" and clip.video == played.scene.id
        assert clip.chunk * CHUNK <= latent < (clip.chunk + 1) * CHUNK
        assert torch.equal(
            shown, video[[t == (word, latent) for t in played.scene.taken].index(True), : len(shown)]
        )
        assert clip.actions.labels_K.tolist() == list(played.scene.labels[clip.chunk * CHUNK :][:CHUNK])
        for lie, taken in ((OTHER_ITEM, False), (NO_ITEM, None)):
            other = clip.denied[lie]
            layout = next(
                g
                for g, t in enumerate(played.scene.taken)
                if (t is None) == (taken is None) and (t is None or t[0] != word)
            )
            past = torch.cat([other.past_F3hw, other.frames_F3hw])
            assert torch.equal(past, video[layout, : len(past)]) and other.instruction == clip.instruction


def test_files_that_hold_no_scenes_are_refused(tmp_path):
    file = tmp_path / "scenes.json"
    for text in ("{", "[]", '{"version": 0, "scenes": []}', '{"version": 1, "scenes": [{}]}'):
        file.write_text(text)
        with pytest.raises(UserError, match="holds"):
            load_scenes(file)


def test_instructions_name_items():
    assert [items_named(text) for text in ("Pick up the green ARMOR", "take the  health pack!", "jump")] == [
        [0],
        [1],
        [],
    ]
    assert items_named("take the health pack, not the health flask") == [1, 2]


def test_only_a_critic_that_reads_the_item_is_perfect(scenes):
    knows = judge_marks(mark(Sees(scenes), scenes))
    assert (
        knows.accuracy.mean == knows.correlation.mean == 1 and knows.calibration == 0 and knows.abstained == 0
    )
    assert all(
        share.mean == 1 for share in (*knows.right.values(), *knows.ranked.values(), *knows.by_path.values())
    )
    blind = judge_marks(mark(Sees(scenes, lambda group, truth: [1.0, 1.0, 0.0]), scenes))
    assert blind.ranked == {"takes the other item": blind.ranked["takes the other item"],
                            "takes nothing": knows.ranked["takes nothing"]}  # fmt: skip
    assert blind.ranked["takes the other item"].mean == 0.5 and blind.accuracy.mean == 0.75
    constant = judge_marks(mark(Sees(scenes, lambda group, truth: [7.0] * 3), scenes))
    assert constant.accuracy.mean == 0.5 and constant.correlation.mean == 0 and constant.calibration is None
    assert all(share.mean == 0.5 for share in constant.ranked.values())


def test_abstentions_are_no_answers(scenes):
    silent = judge_marks(mark(Sees(scenes, lambda group, truth: [float("nan")] * 3), scenes))
    assert silent.abstained == 1 and silent.accuracy.mean == 0.5 and silent.ranked["takes nothing"].n == 0
    assert "NaN" not in json.dumps(silent.to_json())
    half = judge_marks(mark(Sees(scenes, lambda group, truth: [truth[0], truth[1], float("nan")]), scenes))
    assert half.abstained == pytest.approx(1 / 3) and half.accuracy.mean == pytest.approx(0.875)


def test_the_threshold_comes_from_the_other_half():
    assert threshold_of(np.array([1.0, 2, 3, 4]), np.array([False, False, True, True])) == 2.5
    assert threshold_of(np.array([2.0, 2]), np.array([True, False])) == 2
    assert threshold_of(np.array([]), np.array([], bool)) == 0


def clip_of(bright_latent):
    """A white square that vanishes in one latent, or never (None)."""
    pictures = torch.full((12, 3, 48, 64), 60, dtype=torch.uint8)
    last = 12 if bright_latent is None else bright_latent + 1
    pictures[:last, :, 20:40, 20:44] = 250
    return pictures


def test_training_teaches_the_reader_when_a_thing_vanishes():
    latents = [i % 11 if i % 3 else None for i in range(36)]
    taken = torch.zeros(36, 11, len(ITEMS))
    for clip, latent in enumerate(latents):
        if latent is not None:
            taken[clip, latent, 1] = 1
    data = Labelled(torch.stack([clip_of(latent) for latent in latents]), taken)
    net = train_reader(data, 0, dataclasses.replace(pickup_training.PART, steps=60))
    frames = data.pictures_NT3hw.repeat_interleave(4, 1)[:, 3:]
    found = taken_at_all(net.probabilities(frames))
    assert (
        (found[:, 1] > 0.5) == torch.tensor([latent is not None for latent in latents])
    ).float().mean() > 0.9
    assert (found[:, 0] < 0.5).all()
    again = train_reader(data, 0, dataclasses.replace(pickup_training.PART, steps=2))
    third = train_reader(data, 0, dataclasses.replace(pickup_training.PART, steps=2))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), third.parameters(), strict=True))


def test_loss_is_what_its_formula_says():
    logits, taken = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, 2)
    taken[0, 1, 0] = 1
    p = logits.sigmoid()
    ever, truth = 1 - (1 - p).prod(1), taken.amax(1)
    cross = torch.nn.functional.binary_cross_entropy
    expected = 3 * cross(p, taken) + cross(ever, truth)
    assert pickup_loss(logits, taken) == pytest.approx(float(expected), rel=1e-4)
    assert pickup_loss(torch.full_like(logits, -80), taken).isfinite()


def test_labels_come_from_the_engine(scenes):
    frames = np.stack([p.frames_GF3hw.movedim(2, -1).numpy() for p in scenes])
    held = SceneFrames([p.scene for p in scenes], frames)
    data = labelled([held])
    assert data.pictures_NT3hw.shape == (15, 12, 3, 48, 64) and data.taken_NMI.sum() == 10
    word, latent = scenes[0].scene.taken[0]
    assert data.taken_NMI[0, latent - 1, [i.word for i in ITEMS].index(word)] == 1
    assert torch.equal(played_of(held)[2].frames_GF3hw, scenes[2].frames_GF3hw)
    assert outcome_of(scenes[0], 0, scenes[0].scene.words[0]) == 0 and outcome_of(scenes[0], 2, word) == 2


def test_scenes_on_disk_are_kept_and_another_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(SPLITS, "heldout", (find_map("simpler_basic"),))
    first = collect_scenes(tmp_path, "heldout", 1, 0)
    stamp = (tmp_path / "heldout/simpler_basic/frames.npy").stat().st_mtime_ns
    assert collect_scenes(tmp_path, "heldout", 1, 0)[0].scenes == first[0].scenes
    assert (tmp_path / "heldout/simpler_basic/frames.npy").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="holds 1 scenes, expected 2"):
        collect_scenes(tmp_path, "heldout", 2, 0)
    assert not {m.name for m in SPLITS["train"]} & {m.name for m in SPLITS["unseen"]}


def test_the_critic_keeps_its_contract_and_abstains_from_unknown_items():
    critic = PickupFollowing(PickupReader().eval())
    group = dataclasses.replace(noise_group(), instruction="pick up the health pack")
    check_critic(critic, group)
    scores = critic(group)
    assert scores.valid_G.all() and ((scores.values_G >= 0) & (scores.values_G <= 1)).all()
    for words in ("", "walk forward", "take the health pack and the green armour"):
        assert not critic(dataclasses.replace(group, instruction=words)).valid_G.any()
    beginning = dataclasses.replace(
        group, past_frames_F3hw=group.past_frames_F3hw[:0], frames_GF3hw=group.frames_GF3hw[:, :13]
    )
    check_critic(critic, beginning)
    with pytest.raises(ValueError, match="latents of 4 frames"):
        critic(dataclasses.replace(group, frames_per_latent=2))


def test_the_shipped_critic_knows_pick_ups_on_a_map_never_trained_on():
    if not (WEIGHTS / "pickup.safetensors").is_file():
        pytest.skip("no weights of the pick-up critic in the package: make them with `doom pickup-critic`")
    found = draw_scenes([find_map("multi_deathmatch")], 6, 1, "test")
    critic = PickupFollowing()
    check_critic(critic, found[0].group(found[0].scene.words[0]))
    verdict = judge_marks(mark(critic, found))
    assert verdict.ranked["takes nothing"].mean > 0.6 and verdict.abstained == 0


def test_the_command_writes_scenes_pictures_and_scores(tmp_path, monkeypatch, capsys):
    from judge_server import JudgeServer

    from worldcompass.worlds.doom.engine import maps

    monkeypatch.setattr(maps, "UNSEEN", (find_map("simpler_basic"),))
    words = ["doom", "pickups", "--per-map", "1", "--out", str(tmp_path / "run")]
    with JudgeServer('{"score": 5}') as server:
        with pytest.warns(UserWarning, match="budget of the judge stub is used up"):
            assert cli.main([*words, "--judge", server.address, "--model", "stub", "--requests", "3"]) == 0
        assert len(server.questions) == 3, "six are needed: the budget holds"
    out = capsys.readouterr().out
    assert (
        "ranked above the clip that takes nothing" in out and "answered=3" in out and "over_budget=3" in out
    )
    held = json.loads((tmp_path / "run/scores.json").read_text())
    assert held["scenes"] == 1 and held["abstained"] == 0.5
    assert (
        load_scenes(tmp_path / "run/scenes.json")
        and (tmp_path / "run/simpler_basic.png").stat().st_size > 10_000
    )
    assert list((tmp_path / "run/answers").glob("*.json"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--model", "x"], "name its server with --judge"),
     (["--judge", "http://127.0.0.1:1/v1"], "needs the --model"),
     (["--judge", "http://127.0.0.1:1/v1", "--model", "x"], "no judge answers at"),
     (["--critic", "absent.py:make"], "absent.py")],
)  # fmt: skip
def test_mistakes_are_said_before_anything_is_played(words, sentence, tmp_path, capsys):
    assert cli.main(["doom", "pickups", "--out", str(tmp_path / "run"), *words]) == 2
    assert sentence in capsys.readouterr().err
