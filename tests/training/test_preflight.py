"""What cannot work is refused in words, before anything runs."""

from dataclasses import replace

import pytest
import torch
from toy_runs import TINY, critics
from toy_worlds import FewSteps

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.loop import train
from worldcompass.training.preflight import try_critics
from worldcompass.types import Scores

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"group_size": 1, "best": 1, "worst": 0},
        {"best": 3, "worst": 2},
        {"best": -1},
        {"best": 0, "worst": 0},
        {"first_chunk": 3, "last_chunk": 2},
        {"updates_per_rollout": 7},
        {"lr": 0.0},
        {"beta": -1.0},
        {"kl_weight": -1.0},
        {"explore": -1.0},
        {"temperature": 0.0},
        {"shared_noise": True},
        {"lr": float("nan")},
        {"reward_clip": 0.0},
        {"weights": {"obedience": -1.0}},
        {"weights": {"obedience": float("nan")}},
        {"weights": {"obedience": float("inf")}},
    ],
)
def test_configurations_that_cannot_work_are_refused_at_once(change):
    with pytest.raises(ValueError, match=r"must|need|without"):
        TINY.changed(**change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": {"obediance": 1.0}}, "unknown critics"),
        ({"weights": {"obedience": 0.0, "cleanliness": 0.0}}, "weights of all critics are zero"),
        ({"chunk_length": 3}, "chunk_length is 3"),
        ({"prompts_per_step": 6}, "at most the 5 scenarios"),
        ({"last_chunk": 2}, "is shorter"),
        ({"noise_levels": 7}, "at most the 6 steps of a rollout"),
        ({"explore": 1.0}, "does not have: set config.explore=0"),
        ({"temperature": 1.0}, "how unsure it is, which toy does not: leave config.temperature out"),
    ],
)
def test_settings_that_do_not_fit_the_world_are_refused(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        train(ToyWorld(), critics(), toy_scenarios(5), TINY.changed(**change), tmp_path)
    assert not list(tmp_path.iterdir())


def test_try_critics_refuses_critics_that_cannot_score_the_world():
    class Large(ToyObedience):
        name = "large"

        def __call__(self, group):
            raise ValueError(f"frames of 64 pixels or more are needed, got {group.frames_GF3hw.shape[-1]}")

    class One(ToyObedience):
        name = "one"

        def __call__(self, group):
            return Scores(torch.zeros(1), torch.ones(1, dtype=torch.bool))

    world, scenario = ToyWorld(), toy_scenarios(1)[0]
    try_critics(world, critics(), scenario, 4)
    with pytest.raises(
        UserError, match="critic large cannot score the chunks of toy: it failed: frames of 64 pixels"
    ):
        try_critics(world, [*critics(), Large()], scenario, 4)
    with pytest.raises(UserError, match=r"critic one cannot score .*: it must return one score"):
        try_critics(world, [One()], scenario, 4)


def test_a_run_tries_its_critics_before_imagining(tmp_path, monkeypatch):
    class OfAnotherWorld(ToyObedience):
        name = "another"

        def __call__(self, group):
            raise ValueError(f"frames must be 640 wide, got {group.frames_GF3hw.shape[-1]}")

    class Nameless:
        def __call__(self, group):
            return ToyObedience()(group)

    monkeypatch.setattr(ToyWorld, "begin", lambda *_: pytest.fail("something was imagined"))
    for critic, words in (
        (OfAnotherWorld(), "frames must be 640 wide, got 4"),
        (Nameless(), "is not a critic"),
    ):
        with pytest.raises(UserError, match=words):
            train(ToyWorld(), [ToyObedience(), critic], toy_scenarios(5), TINY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_critics_and_scenarios_need_unique_names(tmp_path):
    with pytest.raises(ValueError, match="different names"):
        train(ToyWorld(), [ToyObedience(), ToyObedience()], toy_scenarios(5), TINY, tmp_path)
    with pytest.raises(ValueError, match="ids must differ"):
        train(ToyWorld(), critics(), toy_scenarios(3) * 2, TINY, tmp_path)


def test_a_number_of_steps_without_levels_is_refused(tmp_path):
    with pytest.raises(UserError, match="fixed noise levels for 3 denoising steps, got 6: set 3"):
        train(FewSteps(), critics(), toy_scenarios(5), TINY.changed(denoising_steps=6), tmp_path)


def test_a_chunk_of_only_given_latents_is_refused(tmp_path):
    config = TINY.changed(chunk_length=1, last_chunk=0)
    with pytest.raises(UserError, match=r"chunk 0 is given whole to toy.*first_chunk=1"):
        train(ToyWorld(), [ToyCleanliness()], toy_scenarios(5), config, tmp_path)


class Reads(ToyCleanliness):
    def __init__(self, *needs):
        self.needs = needs


@pytest.mark.parametrize(
    ("critic", "words"),
    [
        (
            ToyObedience(),
            r"the critic obedience needs camera poses, but .* 4 controls \(power, .*leave it out",
        ),
        (Reads("truth"), "the critic cleanliness needs the engine's continuation, which no scenario has"),
    ],
)
def test_critics_with_unmet_needs_are_refused_before_the_run(critic, words, tmp_path):
    from lamp_page import LampWorld, walks

    with pytest.raises(UserError, match=words):
        train(LampWorld(), [critic], walks(5), TINY, tmp_path)
    with pytest.raises(
        UserError, match="needs the values of controls, but this world's actions are 81 camera"
    ):
        train(ToyWorld(), [Reads("controls")], toy_scenarios(5), TINY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_actions_outside_the_space_are_refused_before_the_run(tmp_path):
    from lamp_page import Brightness, LampWorld, walks

    *fitting, far = walks(5)
    scenarios = [
        *fitting,
        replace(far, actions=LampWorld.spec.actions.hold(torch.full((8, 4), 1.5))),
    ]
    with pytest.raises(
        UserError, match=r"scenario lamp-4 do not fit lamp: the control power is 1.5: expected"
    ):
        train(LampWorld(), [Brightness()], scenarios, TINY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_from_the_shell_the_refusal_is_one_sentence_and_code_2(tmp_path, capsys):
    from lamp_page import FOLDER

    (FOLDER / "unfit.py").write_text(
        "import lamp\nfrom worldcompass.toy import ToyObedience\n\n\n"
        "class Unfit(lamp.LampRun):\n    def run(self, out, device, resume):\n"
        "        lamp.train(lamp.make(), [ToyObedience()], lamp.walks(8), self.config, out)\n\n\n"
        "def unfit():\n    return Unfit(lamp.bright().config)\n"
    )
    assert cli.main(["train", f"{FOLDER / 'unfit.py'}:unfit", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the critic obedience needs camera poses") and said.count("\n") == 1
