"""Long scenarios of Hands are carried out exactly, and their own scenes say what is there."""

from worldcompass import cli
from worldcompass.judging.horizon import BASE, ENGINE, read_horizon
from worldcompass.worlds.hands import horizon
from worldcompass.worlds.hands.horizon import permanence, scenarios


def test_scenarios_of_a_block_are_carried_out_and_keep_the_things_of_their_own_scenes(engine):
    some, latents = scenarios(1, 8), 8
    assert len({s.id for s in some}) == 4 and {s.kind for s in some} == {"basic"}
    for scenario in some:
        assert scenario.truth.frames_F3hw.shape[0] == 4 * latents - 3
        assert scenario.truth.actions.values_KTA.equal(scenario.actions.values_KTA)
        assert permanence(scenario.truth.frames_F3hw, scenario).tolist() == [1.0] * (4 * latents - 3)
    others = [other.truth.frames_F3hw for other in (*some[1:], some[0])]
    strange = [permanence(video, s).mean() for video, s in zip(others, some, strict=True)]
    assert sum(strange) / len(strange) < 0.7
    assert not {s.id for s in some} & {s.id for s in scenarios(3, 1)}


def test_the_command_measures_the_base_says_where_it_breaks_down_and_resumes_at_once(
    engine, tmp_path, capsys, monkeypatch
):
    words = ["horizon", "--world", "hands", "--frames", "8", "--window", "8", "--scenarios", "4"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    found = read_horizon(tmp_path / "out" / "horizon.json")
    assert (
        found.ruled == ("judge_accuracy", "permanence")
        and found.command == f"worldcompass {' '.join(words)} --seed 0"
    )
    assert found.sides[ENGINE].values_VD["permanence"].tolist() == [[1.0]] * 4
    assert 0.6 < found.curve(BASE, "judge_accuracy").mean[0] <= 1
    assert "base: holds for 8 frames" in said and "| things that are there | engine | 100% |  |" in said
    monkeypatch.setattr(horizon, "scenarios", None)  # would fail if it were called
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == said
