"""The tutorial of PushT: its commands run in their short form, in the order of the page."""

import importlib
import json

import pytest
from example_pusht import PUSHT
from pages import ROOT, commands

from worldcompass import cli
from worldcompass.runs.metrics import read_metrics

PAGE = ROOT / "docs" / "tutorials" / "pusht.md"
pytestmark = pytest.mark.usefixtures("one_thread")


def short(words):
    """The same command on little data; None for those that install or do not end."""
    if words[0] == "python":
        return [*words, "--quick"]
    if words[:2] == ["worldcompass", "train"]:
        assert words[2].endswith("pusht_train.py:push")
        return [*words[:2], words[2].replace(":push", ":short"), *words[3:]]
    return None if words[0] == "pip" or words[1] in ("judge", "play") else words


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """Judging needs 16 recordings, which its own tests have."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(PUSHT))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = []
    for words in filter(None, map(short, commands(PAGE.read_text()))):
        if words[0] == "python":
            module = words[1].rpartition("/")[2].removesuffix(".py")
            importlib.import_module(module).main(words[2:])
            done.append(module)
        else:
            assert cli.main(words[1:]) == 0, words
            done.append(words[1])
    said = capsys.readouterr().out
    assert [name for name in done if name != "pusht_export"] == [
        "pusht_collect", "pusht_world", "pusht_reader", "pusht_measure", "train", "pusht_measure", "pusht_policies",
    ]  # fmt: skip
    assert len(read_metrics(tmp_path / "runs" / "pusht_rl" / "metrics.jsonl")) == 2
    assert "world model" in said and "start repeated" in said
    scores = json.loads((tmp_path / "policies.json").read_text())
    assert set(scores["agreement"]) == {"environment, read", "base", "trained", "change"}
