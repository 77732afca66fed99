"""A critic that learns from recordings to read what was commanded between frames."""

import contextlib
import dataclasses
import io
import json
import pickle

import pocket
import pytest
import torch
from pocket import SPEC, footage, group_of, record
from recorded import record as sliding
from safetensors.torch import load
from toy_runs import TINY

from worldcompass import cli
from worldcompass.audit.degradations import blurred, shuffled
from worldcompass.commands._recorded import recorded
from worldcompass.controls import Axis, Controls, button
from worldcompass.errors import UnfitInputs, UserError
from worldcompass.judging.recorded import recorded_scenes
from worldcompass.media.video import write_mp4
from worldcompass.parallel.signals import Interrupted
from worldcompass.recordings import read_recordings
from worldcompass.rewards.discriminator import Discriminator, Schooling
from worldcompass.rewards.inverse_dynamics.critic import InverseDynamics, of_recipe
from worldcompass.rewards.inverse_dynamics.faults import VOIDS
from worldcompass.rewards.inverse_dynamics.file import FILE, Facts, Read
from worldcompass.rewards.inverse_dynamics.fit import loss_of, train_critic
from worldcompass.rewards.inverse_dynamics.footage import Latents, evenly, read_footage
from worldcompass.rewards.inverse_dynamics.measure import mean_of
from worldcompass.rewards.inverse_dynamics.network import ControlReader
from worldcompass.rewards.inverse_dynamics.panel import Panel, on_scale, scale_of
from worldcompass.rewards.inverse_dynamics.sight import read_frames, reading_size, windows
from worldcompass.runs.metrics import read_metrics
from worldcompass.seeding import generator_for
from worldcompass.statistics import Estimate
from worldcompass.testing import check_critic
from worldcompass.toy import ACTIONS, ToyWorld, toy_scenarios
from worldcompass.training.loop import train
from worldcompass.types import ControlValues

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 160
WORLD = f"{pocket.__file__}:make"
MOVES = ("none-3, right-4", "right-3, up-4", "down-2, left+down-5", "lamp-3, left-4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the command prints, its exit code, and its file."""
    folder = tmp_path_factory.mktemp("pocket")
    record(folder / "recordings", 25)
    words = ["critics", "train", "--data", str(folder / "recordings"), "--world", WORLD]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = cli.main([*words, "--out", str(folder / "critic"), "--steps", str(STEPS)])
    return printed.getvalue(), code, folder / "critic" / "inverse_dynamics.safetensors"


@pytest.fixture(scope="module")
def critic(trained):
    return InverseDynamics.load(trained[2], SPEC)


def test_held_out_recordings_say_which_controls_are_read_and_which_are_not(trained, critic):
    printed, code, _ = trained
    reads = dict(zip(SPEC.actions.axes, critic.facts.reads, strict=True))
    assert all(reads[name].right.mean > 0.9 and reads[name].readable for name in ("x", "y"))
    assert reads["lamp"].right.mean > 0.7
    assert not reads["knob"].readable and reads["knob"].right.low < reads["knob"].guessing == 1 / 3
    assert code == 1 and "warning: the control knob cannot be read" in printed
    assert len(critic.facts.held_out) == 5 and not set(critic.facts.held_out) & set(critic.facts.trained_on)


def test_the_truth_scores_near_one_and_other_commands_near_nothing(critic):
    assert critic.facts.true.mean > 0.8 and critic.facts.other.mean < 0.3
    scores = {path: critic(group_of(path)).values_G.item() for path in MOVES}
    assert min(scores.values()) > 0.7, scores


@pytest.mark.parametrize("path", MOVES)
def test_forgeries_earn_less_than_the_truth(critic, path):
    generator = generator_for("forgeries")
    forgeries = {
        "still": lambda frames, past: past[-1:].expand_as(frames),
        "shuffled": lambda frames, past: shuffled(frames, past, 1.0, generator),
        "blurred": lambda frames, past: blurred(frames, past, 1.0, generator),
        "backwards": lambda frames, past: frames.flip(0),
        "blank": lambda frames, past: torch.full_like(frames, 128),
        "noise": lambda frames, past: torch.randint(0, 256, frames.shape, generator=generator, dtype=torch.uint8),
    }  # fmt: skip
    whole = critic(group_of(path, *forgeries.values())).values_G.tolist()
    found = dict(zip(forgeries, whole[1:], strict=True))
    assert max(found.values()) < 0.7 * whole[0], found
    assert max(found[name] for name in ("still", "blank", "noise")) < 0.1, found
    wrong = group_of(MOVES[MOVES.index(path) - 1]).actions
    assert critic(dataclasses.replace(group_of(path), actions=wrong)).values_G.item() < 0.6 * whole[0]


def test_standing_still_earns_all_where_nothing_is_commanded_and_nothing_beyond_one(critic):
    group = group_of("none-8", lambda frames, past: past[-1:].expand_as(frames))
    values = critic(group).values_G
    assert values.min() > 0.7 and values.max() <= 1
    moving = group_of("none-4, right-4").frames_GF3hw
    assert critic(dataclasses.replace(group, frames_GF3hw=moving)).values_G.item() < 0.1


def test_it_keeps_the_contract_abstains_from_a_lone_start_and_takes_frames_of_any_size(critic):
    group = group_of("right-3, up-4", lambda frames, past: frames.flip(0))
    check_critic(critic, group)
    start = dataclasses.replace(
        group, frames_GF3hw=group.frames_GF3hw[:, :1], past_frames_F3hw=group.past_frames_F3hw[:0],
        actions=group.actions.latents(0, 1),
    )  # fmt: skip
    assert not critic(start).valid_G.any()
    large = {
        name: getattr(group, name).repeat_interleave(3, -1).repeat_interleave(3, -2)
        for name in ("frames_GF3hw", "past_frames_F3hw")
    }
    assert torch.allclose(
        critic(dataclasses.replace(group, **large)).values_G, critic(group).values_G, atol=0.02
    )
    with pytest.raises(ValueError, match="expected latents of 4 frames"):
        critic(dataclasses.replace(group, frames_per_latent=8))


def test_a_control_that_cannot_be_read_counts_nowhere(critic):
    group = group_of("right-3, up-4")
    turned = group.actions.controls.values_KTA.clone()
    turned[..., 3] = 1.0
    other = dataclasses.replace(group, actions=ControlValues(turned))
    assert torch.equal(critic(other).values_G, critic(group).values_G)


def another(**changes):
    return dataclasses.replace(SPEC, **changes)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (another(actions=Controls((button("jump"),))), r"reads x \(-1 to 1\), .* pocket has jump \(0 to 1 in 2"),
        (another(actions=ACTIONS), r"reads x .* pocket has right \(-1 to 1 in 3 levels"),
        (another(fps=30.0), "reads 20 frames per second, but pocket shows 30"),
        (another(frames_per_latent=8), "reads latents of 4 frames, but those of pocket have 8"),
    ],
)  # fmt: skip
def test_a_world_with_other_controls_or_another_rate_is_refused_in_one_sentence(spec, message, trained):
    with pytest.raises(UnfitInputs, match=message):
        InverseDynamics.load(trained[2], spec)


def test_a_file_that_is_none_is_refused_and_a_pickle_is_never_opened(tmp_path):
    file = tmp_path / "critic.safetensors"
    with pytest.raises(UserError, match="is missing: make it with 'worldcompass critics train"):
        InverseDynamics.load(file)
    file.write_bytes(pickle.dumps(pytest.fail))
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        InverseDynamics.load(file)
    for facts in ("", "[]", '{"size": [9000, 9000], "reads": []}'):
        FILE.save(torch.nn.Linear(1, 1), file, {"facts": facts})
        with pytest.raises(UserError, match="does not say what it reads"):
            InverseDynamics.load(file)
    with pytest.raises(UserError, match="inverse_dynamics names no file"):
        of_recipe("", SPEC)


def test_recipes_take_the_file_as_a_setting(trained, capsys, tmp_path):
    words = ["train", "hands_demo", "--set", "inverse_dynamics_weight=1", "--out", str(tmp_path / "run")]
    assert cli.main([*words, "--set", f"inverse_dynamics={trained[2]}"]) == 2
    assert "but hands has x (-1 to 1), y (-1 to 1), z (-1 to 1), opening" in capsys.readouterr().err


def test_its_audit_on_the_held_out_recordings_finds_it_sound(trained, tmp_path, capsys):
    recordings = trained[2].parents[1] / "recordings"
    words = ["audit", f"inverse_dynamics={trained[2]}", "--world", WORLD, "--recordings", str(recordings)]
    assert cli.main([*words, "--size", "quick", "--out", str(tmp_path)]) == 0
    audit = json.loads((tmp_path / "audit.json").read_text())
    assert audit["videos"] == 5 and audit["faults"] == []
    for lie in ("frozen", "shuffled", "blurred", "wrong commands", "other video"):
        assert audit["punished"][f"{lie}@1"]["mean"] >= 0.9, lie
    assert max(value["mean"] for value in audit["cheated"].values()) == 0
    assert cli.main([*words[:2], "--world", WORLD]) == 2
    assert "has no engine: give recordings of the real thing" in capsys.readouterr().err


def test_a_video_is_scored_by_the_path_that_it_should_follow(trained, tmp_path, capsys):
    frames = pocket.draw(SPEC.actions.along("right-4").controls.values_KTA[1:, 0].numpy(), 7)
    write_mp4(tmp_path / "right.mp4", frames, SPEC.fps)
    words = ["score", "--video", str(tmp_path / "right.mp4"), "--world", WORLD, "--json"]
    scores = {}
    for path in ("right-4", "left-4"):
        assert cli.main([*words, "--critic", f"inverse_dynamics={trained[2]}", "--path", path]) == 0
        scores[path] = json.loads(capsys.readouterr().out)["inverse_dynamics"]
    assert scores["right-4"] > 0.7 and scores["left-4"] < 0.1
    assert cli.main([*words, "--path", "right-4"]) == 2
    assert "has no critics of its own here: name one with --critic" in capsys.readouterr().err


# ------------------------------------------------------------------ training


def test_a_training_that_is_killed_ends_as_one_that_was_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("worldcompass.training.stage.SAVE_SECONDS", -1.0)
    monkeypatch.setattr("worldcompass.training.stage.LEAST_SECONDS", -1.0)
    monkeypatch.setattr("worldcompass.rewards.inverse_dynamics.fit.GLANCE", 8)
    learned, held_out = footage(range(4), 8), footage(range(4, 6), 8)

    def run(out, error=UserError):  # as nothing can be read after so few steps
        with pytest.raises(error):
            train_critic(SPEC, learned, held_out, out, 1, steps=6)

    def dies(net, pool, generator):
        if steps.pop() == 0:
            raise Interrupted(15)
        return loss_of(net, pool, generator)

    run(tmp_path / "a")
    steps = [0, 1, 2, 3]
    with monkeypatch.context() as killing:
        killing.setattr("worldcompass.rewards.inverse_dynamics.fit.loss_of", dies)
        run(tmp_path / "b", Interrupted)
    run(tmp_path / "b")
    states = [(tmp_path / side / "inverse_dynamics.state.safetensors").read_bytes() for side in "ab"]
    tensors = [load(state) for state in states]
    assert all(torch.equal(tensors[1][name], value) for name, value in tensors[0].items())
    with pytest.raises(UserError, match="holds the training of a critic with other trained_on"):
        train_critic(SPEC, learned[1:], held_out, tmp_path / "a", 1, steps=6)


def test_recordings_that_cannot_teach_are_refused_in_one_sentence(tmp_path):
    record(tmp_path / "few", 4, latents=2)
    with pytest.raises(
        UserError, match="few holds 4 recordings: expected 5 or more, as every 5th is held out"
    ):
        read_footage(tmp_path / "few", SPEC)
    record(tmp_path / "fast", 1, latents=2, fps=30.0)
    with pytest.raises(UserError, match="has 30 frames per second, pocket shows 20"):
        read_footage(tmp_path / "fast", SPEC)
    (tmp_path / "few" / "play00.json").write_text('{"path": "right-9"}')
    assert len(read_recordings(tmp_path / "few", SPEC, None)[0].actions) == 10
    with pytest.raises(UserError, match="name the world with --world"):
        recorded(None, tmp_path / "few")


class Own(ToyWorld):
    """A user's own world, at the rate of the recordings."""

    def __init__(self):
        super().__init__()
        self.spec = dataclasses.replace(self.spec, fps=24.0)


def unlearned(spec):
    """A critic of a world that has learned nothing."""
    panel, size = Panel.of(spec.actions), reading_size(spec.frame_size)
    net = ControlReader(panel, size, len(read_frames(spec.frames_per_latent))).eval()
    reads = (Read(Estimate(1.0, 0.9, 1.0), 3, 0.0, 1.0, 1.0),) * len(panel.axes)
    score = Estimate(0.5, 0.4, 0.6)
    facts = Facts(
        panel, spec.fps, spec.frames_per_latent, size, reads, 1.0, score, score, ("a",), ("b",), 0, 1
    )
    return InverseDynamics(net, facts)


def test_one_folder_of_recordings_serves_the_critic_the_discriminator_and_the_judge(tmp_path):
    world = Own()
    folder = sliding(tmp_path / "recordings", count=16, frames=31, path="w-15")
    assert len(read_footage(folder, world.spec)) == 16
    scenarios = [recording.scenario(world.spec) for recording in read_recordings(folder, world.spec, 8)]
    critics = [unlearned(world.spec), Discriminator(Schooling(updates=1, pairs=4))]
    train(world, critics, scenarios, TINY.changed(steps=2), tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all("accuracy" in row.learners["reality"] for row in rows)
    assert all(row.rewards["inverse_dynamics"].valid == 1 for row in rows)
    assert len(recorded_scenes(folder, world.spec, 16)("judge", 8).scenarios) == 8


def test_a_run_refuses_a_critic_of_another_rate_before_it_starts(tmp_path):
    critic = unlearned(dataclasses.replace(Own().spec, fps=30.0))
    with pytest.raises(UnfitInputs, match="inverse_dynamics reads 30 frames per second, but toy shows 24"):
        train(Own(), [critic], toy_scenarios(4), TINY, tmp_path / "run")


# ------------------------------------------------------------------ parts


def test_a_value_between_two_of_the_scale_is_shared_and_agrees_with_itself_most():
    panel = Panel.of(Controls((Axis("x", -2.0, 4.0, ("left", "right")), button("jump"))))
    assert panel.sizes == (11, 2)
    ways = torch.tensor([-1.0, -0.33, 0.0, 0.5, 1.0])
    shares = on_scale(panel.axes[0], ways)
    assert torch.allclose(shares @ scale_of(panel.axes[0]), ways) and torch.allclose(
        shares.sum(-1), torch.ones(5)
    )
    agreed = torch.stack([panel.agreement(0, shares, way.expand(5)) for way in ways])
    assert (agreed.argmax(0) == torch.arange(5)).all() and agreed.diagonal().min() > 0.95
    assert panel.agreement(1, on_scale(panel.axes[1], torch.zeros(1)), torch.ones(1)).item() < 1e-4


def test_values_are_ways_to_the_bounds_and_half_of_the_way_is_the_stroke():
    space = Controls(
        (Axis("x", -2.0, 4.0, ("left", "right")), Axis("mouse", words=("slow",), stroke=0.1)), per_latent=2
    )
    values = torch.tensor([[[4.0, 0.1], [-1.0, 1.0]], [[0.0, -0.05], [2.0, 0.55]]])
    ways = Panel.of(space).ways(ControlValues(values))
    assert torch.allclose(ways, torch.tensor([[[1.0, 0.5], [-0.5, 1.0]], [[0.0, -0.25], [0.5, 0.75]]]))
    assert Panel.of(space).signs(ways).tolist() == [[[1, 1], [-1, 1]], [[0, -1], [1, 1]]]
    assert Panel.from_json(json.loads(json.dumps(Panel.of(space).to_json()))).same(Panel.of(space))


def test_a_camera_is_read_by_the_signs_of_its_motion():
    panel = Panel.of(ACTIONS)
    assert [axis.name for axis in panel.axes] == ["right", "forward", "yaw", "pitch"]
    ways = panel.ways(ACTIONS.along("w-1, s+left-1, d+up-1"))
    assert ways[1:, 0].tolist() == [[0, 1, 0, 0], [0, -1, -1, 0], [1, 0, 0, 1]]


def test_pictures_are_read_small_with_nearly_their_aspect():
    for size in ((64, 64), (48, 64), (480, 832), (16, 16), (720, 1280), (96, 96)):
        high, wide = reading_size(size)
        assert high % 8 == wide % 8 == 0 and min(high, wide) >= 32 and high * wide <= 4800
        assert abs(high / wide / (size[0] / size[1]) - 1) < 0.15


def test_a_latent_is_read_from_the_frame_before_it_to_its_own_last():
    frames = torch.arange(9).view(1, 9, 1, 1, 1).expand(1, 9, 3, 2, 2)
    assert windows(frames, 4)[0, :, :, 0, 0, 0].tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert windows(frames, 1)[0, :2, :, 0, 0, 0].tolist() == [[0, 1], [1, 2]]
    assert windows(frames, 8)[0, :, :, 0, 0, 0].tolist() == [[0, 2, 4, 6, 8]]


def test_rare_commands_are_drawn_more_often():
    latents = Latents.of(footage(range(3), 8), 4)
    ways = torch.zeros(20, 1, 4)
    ways[0, 0, 2] = 1
    shares = evenly(Panel.of(SPEC.actions), ways)
    assert shares[0] > 2 * shares[1] and torch.equal(shares[1:], shares[1].expand(19))
    first = latents.windows(torch.tensor([8]))
    assert torch.equal(first[0, 0], footage([1], 8)[0].frames_F3hw[0])  # the second recording's start
    near = latents.near(torch.arange(len(latents)), generator_for("near"))
    assert torch.equal(latents.whose_N[near], latents.whose_N)


@pytest.mark.parametrize("make", VOIDS, ids=lambda make: make.__name__)
def test_pictures_that_show_nothing_differ_from_those_that_they_are_made_of(make):
    frames = torch.stack([one.frames_F3hw[:5] for one in footage(range(4), 2)]).float() / 255
    made = make(frames, frames.roll(1, 0), generator_for("void"))
    assert made.shape == frames.shape and (made - frames).abs().mean() > 0.02


def test_an_interval_counts_recordings_and_has_width_where_all_agree():
    values, whose = torch.tensor([1.0] * 30 + [0.0] * 10), torch.arange(4).repeat_interleave(10)
    kinds = torch.zeros(40, dtype=torch.long)
    found = mean_of(values, kinds, whose)
    assert found.mean == 0.75 and found.low < 0.4  # one of four recordings is read wrong throughout
    every = mean_of(torch.ones(40), kinds, whose)
    assert every.mean == every.high == 1 and 0.85 < every.low < 0.95
    rare = mean_of(torch.tensor([1.0] * 39 + [0.0]), torch.tensor([0] * 39 + [1]), whose)
    assert rare.mean == 0.5
