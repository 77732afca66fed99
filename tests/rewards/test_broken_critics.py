"""A broken critic gives one sentence: from the shell before any work, in a run after its finished steps."""

import json

import pytest
import torch
from toy_runs import QUICK

from worldcompass import cli
from worldcompass.critic import FailedCritic, ask
from worldcompass.errors import LostCritic
from worldcompass.runs.events import Refused, RolledBack, read_events
from worldcompass.runs.metrics import read_metrics
from worldcompass.testing import noise_group
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.advantages import NonFiniteScore
from worldcompass.training.loop import train
from worldcompass.types import Scores

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = QUICK.changed(steps=4, prompts_per_step=2, save_every=100)
GOOD_CALLS = 1 + 2 * 2  # the trial before the run, two steps of two groups


class Breaking(ToyCleanliness):
    """Scores some groups, then breaks in a chosen way."""

    def __init__(self, how="", good_calls=0):
        self.how, self.left = how, good_calls

    def __call__(self, group):
        scores, self.left = super().__call__(group), self.left - 1
        values, valid = scores.values_G, scores.valid_G
        if self.left >= 0:
            return scores
        if self.how == "refuses":
            raise ValueError("frames must be 64 wide\nand more")
        if self.how == "bug":
            return group.pictures
        if self.how == "device":
            raise RuntimeError("CUDA error")
        return {
            "nan": Scores(values * torch.nan, valid), "few": Scores(values[1:], valid[1:]),
            "plain": values, "few verdicts": Scores(values, valid[1:]), "none": None,
        }[self.how]  # fmt: skip


HOW = {
    "refuses": "failed: frames must be 64 wide",
    "bug": r"failed: AttributeError: .*'pictures', test_broken_critics.py line \d+",
    "device": r"failed: RuntimeError: CUDA error, test_broken_critics.py line \d+",
    "few": r"must return one score and one verdict for each candidate, 3 each, got \(2,\) and \(2,\)",
    "few verdicts": r"must return .* 3 each, got \(3,\) and \(2,\)",
    "plain": "returned Tensor: expected Scores",
    "none": "returned NoneType: expected Scores",
}


@pytest.mark.parametrize("how", HOW)
def test_whatever_it_does_is_the_end_of_one_sentence(how):
    with pytest.raises(FailedCritic, match=f"^{HOW[how]}") as said:
        ask(Breaking(how), noise_group(3))
    assert "\n" not in str(said.value)


def test_a_server_s_own_sentence_stays_as_it_is():
    class Lost(ToyObedience):
        def __call__(self, group):
            raise LostCritic("the server is down")

    with pytest.raises(LostCritic, match=r"^the server is down$"):
        ask(Lost(), noise_group(3))


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [("refuses", LostCritic, "the critic cleanliness failed: frames .*--resume"),
     ("few", LostCritic, "the critic cleanliness must return"),
     ("nan", NonFiniteScore, "the critic cleanliness returned a score that is not finite")],
)  # fmt: skip
def test_a_run_whose_critic_breaks_keeps_finished_steps_and_resumes(how, error, words, tmp_path):
    critics = [ToyObedience(), Breaking(how, GOOD_CALLS)]
    with pytest.raises(error, match=words):
        train(ToyWorld(), critics, toy_scenarios(4), CONFIG, tmp_path / "run", live=False)
    assert [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000002"]
    critics = [ToyObedience(), ToyCleanliness()]
    gone_on = train(ToyWorld(), critics, toy_scenarios(4), CONFIG, tmp_path / "run", True, live=False).state()
    straight = train(ToyWorld(), critics, toy_scenarios(4), CONFIG, tmp_path / "straight", live=False).state()
    assert all(torch.equal(gone_on[name], tensor) for name, tensor in straight.items())


def test_a_score_that_is_not_finite_is_rolled_back_if_allowed(tmp_path):
    class Once(Breaking):
        """Fails once in its life, like a passing fault of a machine."""

        def __call__(self, group):
            return super().__call__(group) if self.left == 0 else self.good(group)

        def good(self, group):
            self.left -= 1
            return ToyCleanliness()(group)

    config = CONFIG.changed(save_every=1, on_disease="rollback")
    train(
        ToyWorld(), [ToyObedience(), Once("nan", GOOD_CALLS)], toy_scenarios(4), config, tmp_path, live=False
    )
    assert [row.step for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert [type(event) for event in read_events(tmp_path / "events.jsonl")] == [Refused, RolledBack]


DIVERGING = """
from dataclasses import dataclass
from diseases import HEALTHY, BreakingWorld
from worldcompass.toy import ToyObedience, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.loop import train

@dataclass(frozen=True)
class Recipe:
    config: Config = HEALTHY

    def run(self, out, device, resume):
        train(BreakingWorld(3), [ToyObedience()], toy_scenarios(4), self.config, out, live=False)

def diverging():
    return Recipe()
"""


def test_an_update_that_is_not_finite_stops_the_run_with_a_sentence(tmp_path, capsys):
    (tmp_path / "diverging.py").write_text(DIVERGING)
    out = tmp_path / "run"
    assert cli.main(["train", f"{tmp_path}/diverging.py", "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("loss nan, gradient norm") and said.count("\n") == 1 and "Traceback" not in said
    assert cli.main(["doctor", str(out)]) == 1 and "NOT FINITE (harmful" in capsys.readouterr().out


MINE = """
import torch
from worldcompass.types import Scores

class Mine:
    name = "mine"

class Bug(Mine):
    def __call__(self, group):
        return group.pictures

class Plain(Mine):
    def __call__(self, group):
        return group.frames_GF3hw.float().mean((1, 2, 3, 4))

class Large(Mine):
    def __call__(self, group):
        raise ValueError("frames must be 640 wide")
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [("Bug", "failed: AttributeError: 'Group' object has no attribute 'pictures', mine.py line 10"),
     ("Plain", "returned Tensor: expected Scores(values_G, valid_G)"),
     ("Large", "failed: frames must be 640 wide")],
)  # fmt: skip
def test_a_users_critic_that_breaks_gives_one_sentence(name, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    assert cli.main(["audit", f"mine.py:{name}"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: mine.py:{name} breaks the contract of critics: {words}\n"
    monkeypatch.setattr(
        "worldcompass.rewards.video_score.read_video",
        lambda *_, **__: torch.zeros(13, 3, 48, 64, dtype=torch.uint8),
    )
    assert cli.main(["score", "--video", "x.mp4", "--path", "w-3", "--critic", f"mine.py:{name}"]) == 2
    assert capsys.readouterr().err == f"error: the critic mine {words}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [("def make(:", "invalid syntax (broken.py, line 1)"), ("import nothere", "No module named 'nothere'"),
     ("\nx = 1 / 0", "ZeroDivisionError: division by zero, broken.py line 2"),
     ("y = z", "NameError: name 'z' is not defined, broken.py line 1")],
)  # fmt: skip
def test_a_file_that_cannot_be_imported_gives_one_sentence(text, words, tmp_path, capsys):
    file = tmp_path / "broken.py"
    file.write_text(text)
    for command in ("audit", "serve-reward", "train"):
        assert cli.main([command, f"{file}:make"]) == 2
        assert capsys.readouterr().err == f"error: {file} cannot be imported ({words})\n"


def test_command_line_mistakes_are_reported_before_any_clip_is_played(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for words, sentence in (
        (["audit", "interaction", "--out", f"{tmp_path}/file"], "cannot write to"),
        (["audit", "hpsv3"], "hpsv3 needs weights, a server or a part of your choice"),
        (["audit", "interactoin"], "there is no critic 'interactoin': expected interaction"),
        (["serve-reward", "quality", "--port", "99999"], "--port 99999 is out of range"),
        (["rewards", "hpv3"], "there is no critic or estimator 'hpv3': nearest hpsv3"),
        (["train", "doom_full", "--set", "config.weights=1"], "config.weights.NAME=VALUE"),
    ):
        assert cli.main(words) == 2
        assert sentence in capsys.readouterr().err


def test_everything_about_one_critic(capsys):
    assert cli.main(["rewards", "cycle", "hpsv3"]) == 0
    told = capsys.readouterr().out
    assert "from worldcompass.rewards.cycle import CycleClosure" in told
    assert "CycleClosure(thresholds: LabelThresholds, likeness: Likeness = ssim, name: str = 'cycle')" in told
    assert "combine it with a critic of interaction" in told and "20 GiB GPU" in told
    assert cli.main(["rewards", "cycle", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["cycle"]
