"""Judge models: right scores from a real server, and every way in which one can fail."""

import dataclasses
import json
import math
import warnings

import pytest
import torch
from judge_server import JudgeServer, pictures_of

from worldcompass.errors import UserError
from worldcompass.rewards.judge_model import KEY_VARIABLE, Budget, JudgeModel, Tally
from worldcompass.rewards.language import (
    InstructionRank,
    InstructionScore,
    bradley_terry,
    pairs_of,
    read_better,
    read_score,
)
from worldcompass.rewards.wire import pack_group, unpack_group
from worldcompass.rollout import make_group
from worldcompass.testing import check_critic, noise_group
from worldcompass.toy import ToyWorld, toy_scenarios

SECRET = "sk-very-secret-0123456789"


def group_of(*levels):
    """Candidates of one grey level each, with the instruction to be bright."""
    group = noise_group(len(levels))
    frames = group.frames_GF3hw.clone()
    for candidate, level in zip(frames, levels, strict=True):
        candidate[:] = level
    return dataclasses.replace(group, frames_GF3hw=frames, instruction="make it bright")


def model(server, **settings):
    return JudgeModel(server.address, "stub", sleep=lambda _: None, **{"timeout": 5.0, **settings})


def score_of_last(content):
    """The brightness of the last picture on a scale of 10, after some reasoning in text."""
    level = pictures_of(content)[-1].mean() / 25.5
    return f'<think>{{"score": 99}} maybe</think> It is rather bright. {{"score": {level:.1f}}}'


def brighter(content):
    border = next(i for i, part in enumerate(content) if part.get("text") == "Video B:")
    a, b = (pictures_of(part)[-1].mean() for part in (content[:border], content[border:]))
    return json.dumps({"better": "tie" if a == b else "A" if a > b else "B"})


def test_each_candidate_gets_the_models_score():
    with JudgeServer(score_of_last) as server:
        judge = model(server)
        scores = InstructionScore(judge)(group_of(51, 255, 0))
        assert scores.values_G.tolist() == pytest.approx([0.2, 1, 0]) and scores.valid_G.all()
        content = server.questions[0]["messages"][1]["content"]
        assert "make it bright" in content[0]["text"] and server.questions[0]["temperature"] == 0
        shown = pictures_of(content)
        assert len(shown) == 8 and shown[0].shape == (240, 320, 3)
        assert judge.tally == Tally(answered=3, requests=3, tokens=300)
        check_critic(InstructionScore(model(server)), group_of(51, 255, 0))


def test_pairs_become_strengths():
    with JudgeServer(brighter) as server:
        judge = model(server)
        critic = InstructionRank(judge)
        scores = critic(group_of(10, 200, 90, 200))
        order = scores.values_G.tolist()
        assert order[1] == pytest.approx(order[3]) and order[1] > order[2] > order[0] and scores.valid_G.all()
        # Two of the six pairs ask the same twice over: (0, 1) as (0, 3), (1, 2) as (2, 3), and (1, 3) both ways.
        assert judge.tally.answered == len(server.questions) == 7
        check_critic(critic, group_of(10, 200, 90))
        alone = critic(group_of(10))
        assert not alone.valid_G.any()
        few = InstructionRank(judge, opponents=2)(group_of(*range(0, 200, 40))).values_G
        assert few.argmax() == 4 and few[0] < 0, "who wins or loses every match is above or below average"


def test_bradley_terry_is_the_likelihoods_maximum():
    wins = torch.tensor([[0, 3, 1], [1, 0, 2.0], [1, 2, 0]])
    found = bradley_terry(wins).requires_grad_()
    likelihood = (
        sum(
            wins[a, b] * torch.nn.functional.logsigmoid(found[a] - found[b])
            for a in range(3)
            for b in range(3)
        )
        + 0.5 * (torch.nn.functional.logsigmoid(found) + torch.nn.functional.logsigmoid(-found)).sum()
    )
    likelihood.backward()
    assert found.grad.abs().max() < 1e-6
    certain = bradley_terry(torch.tensor([[0, 1.0], [0, 0]]))
    assert math.isfinite(certain[0]) and certain[0] == pytest.approx(-certain[1].item())
    assert torch.equal(bradley_terry(torch.zeros(3, 3)), torch.zeros(3, dtype=torch.float64))


def test_few_opponents_do_not_depend_on_the_order():
    frames = noise_group(6).frames_GF3hw
    pairs = pairs_of(frames, 2)
    assert len(pairs) == 6 and all(sum(g in pair for pair in pairs) == 2 for g in range(6))
    turned = {frozenset(5 - g for g in pair) for pair in pairs_of(frames.flip(0), 2)}
    assert turned == {frozenset(pair) for pair in pairs}
    assert len(pairs_of(frames, None)) == 15


@pytest.mark.parametrize(
    ("answer", "value"),
    [('{"score": 7}', 0.7), ('{"score": 0}', 0), ('a {"score": 3} b {"score": 10} c', 1), ("7", None),
     ('{"score": 11}', None), ('{"score": "7"}', None), ('{"score": true}', None), ('{"score": NaN}', None),
     ("", None), ("{score: 7}", None), ('{"grade": 7}', None)],
)  # fmt: skip
def test_scores_are_read_or_not(answer, value):
    assert read_score(answer) == value


@pytest.mark.parametrize(
    ("answer", "value"), [('{"better": "A"}', 1), ('{"better": "b "}', 0), ('{"better": "tie"}', 0.5),
                          ('{"better": "C"}', None), ('{"better": 1}', None), ("A", None)],
)  # fmt: skip
def test_comparisons_are_read_or_not(answer, value):
    assert read_better(answer) == value


def test_unreadable_answers_abstain_and_are_counted():
    refusal = {"choices": [{"message": {"content": None}}]}
    with JudgeServer('{"score": 5}', "I'd rather not say.", refusal, '{"score": 50}') as server:
        judge = model(server, workers=1)
        scores = InstructionScore(judge)(group_of(1, 2, 3, 4))
        assert scores.valid_G.tolist() == [True, False, False, False]
        assert scores.values_G.tolist() == [0.5, 0, 0, 0] and judge.tally.unreadable == 3
        # Without a word about tokens they are estimated: 8 pictures and the words.
        assert judge.tally.tokens > 300 + 8 * 300
    with JudgeServer("perhaps") as server:
        assert not InstructionRank(model(server))(group_of(1, 2)).valid_G.any()


@pytest.mark.parametrize(
    "first", [500, 503, 429, 408, b"not json", {"choices": []}, [], {"choices": [{"message": {"content": 7}}]}],
    ids=["500", "503", "429", "408", "no json", "no choices", "a list", "no text"],
)  # fmt: skip
def test_a_failed_try_is_made_again(first):
    with JudgeServer(first, first, '{"score": 4}') as server:
        judge = model(server)
        critic = InstructionScore(judge)
        assert critic(group_of(1)).values_G.tolist() == pytest.approx([0.4])
        assert judge.tally.retries == 2 and critic.tries == (3, 2)


def test_pauses_double_and_retry_after_is_respected():
    slept = []
    with JudgeServer(
        (429, [("Retry-After", "7")]), (429, [("Retry-After", "9999")]), 500, '{"score": 4}'
    ) as server:
        judge = JudgeModel(server.address, "stub", sleep=slept.append)
        assert InstructionScore(judge)(group_of(1)).valid_G.all()
    assert slept == [7.0, 0.5, 30.0, 1.0, 2.0]


def test_a_slow_judge_is_given_up():
    with JudgeServer(("slow", 1.5)) as server:
        critic = InstructionScore(model(server, timeout=0.2, tries=2))
        with pytest.raises(
            UserError, match=r"failed 2 times, the last time: .*(too long|timed out).*--resume"
        ):
            critic(group_of(1))
    with JudgeServer(("slow", 3.0), '{"score": 2}') as server:
        assert InstructionScore(model(server, timeout=0.5))(group_of(1)).valid_G.all()


@pytest.mark.parametrize(
    ("answer", "words"),
    [(500, "HTTP 500"), (b"<html>", "not JSON"), ({"choices": []}, "no choices"), (404, "refuses: HTTP 404")],
)
def test_a_judge_that_keeps_failing_stops_the_run_with_one_sentence(answer, words):
    with JudgeServer(answer) as server, pytest.raises(UserError, match=words) as failure:
        InstructionScore(model(server, workers=1))(group_of(1, 2, 3, 4))
    assert len(server.questions) <= 10 and "\n" not in str(failure.value), "the rest is not asked"


def test_invalid_judge_settings_are_reported_before_the_run():
    with pytest.raises(UserError, match="no judge answers at http://127"):
        JudgeModel("http://127.0.0.1:1/v1", "stub")
    with JudgeServer("", models=401) as server, pytest.raises(UserError, match=KEY_VARIABLE):
        model(server)
    with JudgeServer("", models=404) as server:
        model(server)  # lists no models, but is there
    for bad in ({"timeout": 0}, {"tries": 0}, {"budget": Budget(0)}, {"timeout": float("nan")}):
        with JudgeServer("") as server, pytest.raises(UserError, match="above 0"):
            model(server, **bad)
    for address in ("ftp://x", "", "http://[::1"):
        with pytest.raises(UserError, match="is no address of a server: expected one such as http://"):
            JudgeModel(address, "m")
    with pytest.raises(UserError, match="needs the name of a model"):
        JudgeModel("http://127.0.0.1:1", "")


def test_the_same_is_asked_once_in_all_processes(tmp_path):
    with JudgeServer(score_of_last) as server:
        first = InstructionScore(model(server, cache=tmp_path))(group_of(10, 200))
        assert len(server.questions) == 2
        again = model(server, cache=tmp_path)
        assert torch.equal(InstructionScore(again)(group_of(10, 200)).values_G, first.values_G)
        assert len(server.questions) == 2 and again.tally == Tally(cached=2)
        other = dataclasses.replace(group_of(10, 200), instruction="make it dark")
        InstructionScore(again)(other)
        assert len(server.questions) == 4, "another instruction is another question"
        damaged = next(tmp_path.glob("*.json"))
        damaged.write_text("{")
        InstructionScore(model(server, cache=tmp_path))(group_of(10, 200))
        InstructionScore(model(server, cache=tmp_path))(other)
        assert len(server.questions) == 5, "a damaged answer is asked for again"


@pytest.mark.parametrize("budget", [Budget(requests=2), Budget(tokens=150)], ids=["requests", "tokens"])
def test_a_used_up_budget_makes_the_critic_abstain_with_one_warning(budget):
    with JudgeServer('{"score": 9}') as server:
        judge = model(server, budget=budget, workers=1)
        with pytest.warns(UserWarning, match="budget of the judge stub is used up") as told:
            scores = InstructionScore(judge)(group_of(1, 2, 3, 4))
        assert scores.valid_G.tolist() == [True, True, False, False] and len(told) == 1
        assert judge.tally.over_budget == 2 and len(server.questions) == 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert InstructionScore(judge)(group_of(1, 2, 5)).valid_G.tolist() == [True, True, False]


def test_the_key_is_sent_and_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    with JudgeServer('{"score": 9}', 403) as server:
        judge = model(server, cache=tmp_path, workers=1)
        InstructionScore(judge)(group_of(1))
        assert (
            all(h["Authorization"] == f"Bearer {SECRET}" for h in server.headers) and len(server.headers) == 2
        )
        with pytest.raises(UserError, match="refuses: HTTP 403") as failure:
            InstructionScore(judge)(group_of(2))
    assert SECRET not in str(failure.value) and "***" in str(failure.value)
    written = [file.read_text() for file in tmp_path.iterdir()]
    assert written and not any(SECRET in text for text in written)
    with pytest.raises(UserError, match="plain text"):
        JudgeModel("http://judge.example:8000/v1", "stub")


def test_without_an_instruction_or_motion_nothing_is_asked():
    with JudgeServer("") as server:
        judge = model(server)
        for critic in (InstructionScore(judge), InstructionRank(judge)):
            assert not critic(noise_group()).valid_G.any()
            start = dataclasses.replace(
                group_of(1, 2), frames_GF3hw=noise_group(2).frames_GF3hw[:, :1],
                past_frames_F3hw=noise_group().past_frames_F3hw[:0],
            )  # fmt: skip
            assert not critic(start).valid_G.any()
        assert not server.questions


def test_an_instruction_reaches_the_critics_here_and_in_another_process():
    world, scenario = (
        ToyWorld(),
        dataclasses.replace(toy_scenarios(1)[0], instruction="pick up the health pack"),
    )
    frames = torch.zeros(2, world.spec.num_frames(0, 2), 3, *world.spec.frame_size, dtype=torch.uint8)
    group = make_group(world, scenario, frames, frames[0, :0], 0, 2)
    assert group.instruction == unpack_group(pack_group(group)).instruction == scenario.instruction
