"""The record of a run's beginning keeps its entries, and takes files that lack some or have others."""

import json

import pytest

from worldcompass.errors import UserError
from worldcompass.runs.record import RunRecord, read_run_record


def test_what_is_written_is_read(tmp_path):
    record = RunRecord(recipe={"members": 2, "config": {"steps": 3}}, version="0.1.0", weights="4", threads=2)
    (tmp_path / "run.json").write_text(json.dumps(record.to_json()))
    assert read_run_record(tmp_path / "run.json") == record


def test_files_without_entries_or_with_unknown_ones_are_read(tmp_path):
    assert read_run_record(tmp_path / "run.json") == RunRecord()
    (tmp_path / "run.json").write_text(json.dumps({"command": "worldcompass demo", "host": "a"}))
    assert read_run_record(tmp_path / "run.json") == RunRecord(command="worldcompass demo")


@pytest.mark.parametrize("wrong", [{"recipe": []}, {"threads": "2"}, {"command": None}], ids=str)
def test_a_malformed_entry_is_named(wrong, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(wrong))
    (name,) = wrong
    with pytest.raises(
        UserError, match=rf"run\.json is not a run's command and environment: {name} is malformed"
    ):
        read_run_record(tmp_path / "run.json")
