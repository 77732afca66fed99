"""The judgement: one gate on the wrong side rejects, and the file gives back what was written."""

import json

import pytest

from worldcompass.errors import UserError
from worldcompass.judging.verdict import Gate, Judgement, Row, read_judgement, write_judgement
from worldcompass.statistics import UNKNOWN, Estimate

UP, DOWN, OPEN = Estimate(1.0, 0.5, 1.5, 9), Estimate(-1.0, -1.5, -0.5, 9), Estimate(0.1, -0.5, 0.6, 9)


def judged(*changes):
    gates = tuple(Gate(f"gate {i}", change, "units") for i, change in enumerate(changes))
    rows = (Row("place", "last frames", {"base": UP, "trained": UNKNOWN}, "1: all"),)
    return Judgement(24, 1, 125, "abc", 0, gates, rows)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ((UP, UP, UP), "better"),
        ((UP, UP, OPEN), "undecided"),
        ((UP, UP, DOWN), "worse"),
        ((OPEN, DOWN, UP), "worse"),
    ],
)
def test_one_gate_on_the_wrong_side_rejects_and_better_needs_all(changes, outcome):
    assert judged(*changes).outcome == outcome


def test_the_sentence_names_the_gates_that_reject():
    found = judged(UP, DOWN, DOWN).sentence
    assert found.startswith("The trained model looks worse than the base, by gate 1 and gate 2.")
    assert found.endswith("It is nearer to the real thing by gate 0.")


def test_a_judgement_is_read_as_it_was_written(tmp_path):
    written = judged(UP, OPEN, DOWN)
    found = read_judgement(write_judgement(tmp_path / "judgement.json", written))
    assert found.gates == written.gates and found.outcome == written.outcome
    assert found.rows[0].values["base"] == UP and not found.rows[0].values["trained"].known


def test_a_damaged_file_is_refused_in_one_sentence(tmp_path):
    path = write_judgement(tmp_path / "judgement.json", judged(UP))
    data = json.loads(path.read_text())
    del data["gates"][0]["change"]
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="is damaged"):
        read_judgement(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="no judgement of version"):
        read_judgement(path)
