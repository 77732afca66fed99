"""JSON of others: what Python cannot use is a ValueError, which readers make a sentence of."""

import json
import os
from pathlib import Path

import pytest

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media.video import read_image
from worldcompass.runs.reading import parse_json, read_json


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        (b'{"a":' * 30_000, "nested too deeply"),
        ("1" + "0" * 400, "too large"),
        ("[1" + "0" * 5000 + "]", None),  # Python itself refuses so many digits
        (b"\xff", None),
        ("", None),
    ],
)
def test_what_cannot_be_read_is_a_value_error(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_numbers_stay_whole_and_a_mark_of_the_byte_order_is_no_part_of_the_value():
    assert parse_json(b'\xef\xbb\xbf{"a": [9007199254740993, 0.5, null]}') == {
        "a": [9007199254740993, 0.5, None]
    }


@pytest.mark.parametrize(
    "row",
    [
        b"[" * 100_000,
        {"rewards": {"a": {"mean": 10**400}}},
        {"judge": {"mean": 1, "values": [10**400]}},
        {"chunk": float("inf")},
        {"chunk": 0.5},
    ],
)
def test_a_run_with_such_metrics_is_one_sentence(row, tmp_path, capsys):
    """The damaged line stands before an intact one, so that it is not the end of a killed run."""
    rows = [row if isinstance(row, bytes) else json.dumps({"step": 1, "rewards": {}} | row).encode()]
    rows.append(b'{"step": 2, "rewards": {}}')
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(rows))
    for command in ("doctor", "report"):
        assert cli.main([command, str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert "metrics.jsonl line 1" in said and said.count("\n") == 1


def test_what_has_no_end_or_fits_no_memory_is_not_read(tmp_path):
    for name in ("poses.json", "start.png"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 1 << 40)  # takes no disk
    with pytest.raises(ValueError, match=r"it has 1024\.0 GiB, at most 1 is read"):
        read_json(tmp_path / "poses.json")
    with pytest.raises(UserError, match=r"start\.png is not read as a picture: it has 1024\.0 GiB"):
        read_image(tmp_path / "start.png")
    with pytest.raises(ValueError, match="a device"):
        read_json(Path("/dev/zero"))
