"""A run becomes a folder to give away; the hub is stood in for, or faked on loopback where its package is here."""

import base64
import dataclasses
import importlib
import json
import os
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.media import video
from worldcompass.report.export import push
from worldcompass.runs.checkpoint import load_checkpoint, save_checkpoint
from worldcompass.runs.final import exporting, final_weights
from worldcompass.runs.folder import RunFolder
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.balance import Weighing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train
from worldcompass.training.optim import Optimiser
from worldcompass.training.selection import Learning

TINY = Config(
    steps=2,
    seed=7,
    sampling=Sampling(prompts_per_step=2, group_size=4, last_chunk=1),
    rewards=Weighing(weights={"obedience": 2.0}),
    learning=Learning(best=1, worst=1, noise_levels=2),
    optimiser=Optimiser(lr=1e-2),
    keeping=Keeping(save_every=1, recipe="toy.py:tiny"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "toy"
    policy = train(ToyWorld(), [ToyObedience(), ToyCleanliness()], toy_scenarios(4), TINY, out, live=False)
    return out, policy


def export(*words):
    return cli.main(["export", *map(str, words)])


def test_a_runs_average_and_card_are_written(run, tmp_path, capsys):
    out, policy = run
    assert export(out, "--out", tmp_path / "given") == 0
    assert "weights after step 2" in capsys.readouterr().out
    tensors = load_file(tmp_path / "given" / "model.safetensors")
    assert tensors.keys() == policy.checkpoint_weights.keys()
    assert all(torch.equal(tensors[name], policy.checkpoint_weights[name]) for name in tensors)
    ToyWorld().net.load_state_dict(tensors)
    card = (tmp_path / "given" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n") and "does not state it" in card and "Apache-2.0" in card
    rewards = [json.loads(line)["rewards"]["obedience"]["mean"] for line in (out / "metrics.jsonl").open()]
    mean = sum(rewards) / len(rewards)
    for told in ("Recipe: toy.py:tiny. Seed 7; critics: obedience, cleanliness.", "after 2 training steps",
                 "| lr | 0.01 |", "| weight of obedience | 2 |", f"| obedience | {mean:.4f} | {mean:.4f} |",
                 "The run doctor found:"):  # fmt: skip
        assert told in card, card


@pytest.mark.parametrize("world", ["doom", "hands"])
def test_an_embedded_worlds_weights_have_the_package_s_license(run, world, tmp_path):
    out = shutil.copytree(run[0], tmp_path / "run")
    for checkpoint in (out / "checkpoints").iterdir():
        tensors, state = load_checkpoint(checkpoint)
        run_of_world = {**state.run, "world": world}
        save_checkpoint(checkpoint.parent, tensors, dataclasses.replace(state, run=run_of_world))
    leave_weights(out)
    assert export(out, "--out", tmp_path / "given") == 0
    card = (tmp_path / "given" / "README.md").read_text()
    assert "license: apache-2.0\n" in card and f"`worldcompass play --world {world} --after FOLDER`" in card


def leave_weights(out):
    """What a recipe writes at the end of its run."""
    with exporting(RunFolder(out)) as weights:
        (weights / "adapter").mkdir(parents=True)
        save_file({"official.name": torch.ones(2)}, weights / "world.safetensors")
        save_file({"a": torch.ones(2)}, weights / "adapter" / "adapter_model.safetensors")


def train_on(out, steps):
    config = TINY.changed(steps=steps)
    critics = [ToyObedience(), ToyCleanliness()]
    train(ToyWorld(), critics, toy_scenarios(4), config, out, resume=True, live=False)


@pytest.mark.parametrize("recorded", [True, False])
def test_files_that_a_recipe_left_are_taken_as_they_are_until_the_run_goes_on(run, tmp_path, recorded):
    """Whatever the times of the files are; runs of before have no record."""
    out = shutil.copytree(run[0], tmp_path / "run")
    leave_weights(out)
    if not recorded:
        (out / "final.json").unlink()
    os.utime(out / "weights" / "world.safetensors", (1, 1))
    assert export(out, "--out", tmp_path / "a", "--license", "mit", "--base", "some/base") == 0
    card = (tmp_path / "a" / "README.md").read_text()
    assert load_file(tmp_path / "a" / "world.safetensors").keys() == {"official.name"}
    assert "license: mit\n" in card and "base_model: some/base\n" in card and "Weights: mit." in card
    assert "`adapter/adapter_model.safetensors`, `world.safetensors`" in card
    assert not (tmp_path / "a" / "model.safetensors").exists()
    train_on(out, steps=3)
    os.utime(out / "weights" / "world.safetensors")
    assert export(out, "--out", tmp_path / "b") == 0
    assert "after 3 training steps" in (tmp_path / "b" / "README.md").read_text()
    assert (tmp_path / "b" / "model.safetensors").exists()


def clip_of(grey):
    return np.full((12, 3, 32, 48), grey, np.uint8)


def test_the_card_shows_the_newest_clip_that_is_no_later_than_the_weights(run, tmp_path):
    out = shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(out / "samples", ignore_errors=True)
    assert export(out, "--out", tmp_path / "bare") == 0
    assert "webp" not in (tmp_path / "bare" / "README.md").read_text()
    for step, grey in ((1, 60), (2, 120), (3, 180)):
        video.write_mp4(RunFolder(out).clip(step), clip_of(grey), 12)
    assert export(out, "--out", tmp_path / "given") == 0
    card = (tmp_path / "given" / "README.md").read_text()
    assert "![Before training and after step 2](before_after.webp)" in card
    assert "Every trained parameter, named as in" in card, "a picture is no file of weights"
    picture = cv2.imread(str(tmp_path / "given" / "before_after.webp"))
    assert picture.shape == (32, 6 * 48 + 5 * video.GAP, 3) and abs(int(np.median(picture)) - 120) < 4


def test_the_card_of_final_weights_shows_their_comparison_small(run, tmp_path):
    """Of weights that were trained further the comparison is out of date."""
    out = shutil.copytree(run[0], tmp_path / "run")
    leave_weights(out)
    for i in range(5):
        wide = np.full((3, 20, 4000), 50 * i, np.uint8)
        video.save_png(RunFolder(out).filmstrips / f"heldout_[{i}](x)_combined.png", wide)
    assert export(out, "--out", tmp_path / "given") == 0
    names = sorted(path.name for path in (tmp_path / "given").glob("*.webp"))
    assert names == [f"before_after_{i}.webp" for i in range(1, 5)]
    assert cv2.imread(str(tmp_path / "given" / names[1])).shape == (8, 1600, 3)
    assert (
        "![held out,  0  x  combined](before_after_1.webp)" in (tmp_path / "given" / "README.md").read_text()
    )
    train_on(out, steps=3)
    assert export(out, "--out", tmp_path / "later") == 0
    assert not list((tmp_path / "later").glob("before_after_*.webp"))


def test_weights_of_the_same_step_trained_anew_are_not_final(run, tmp_path):
    """A run that went back and came to its last step again: only the checkpoint's checksum tells."""
    out = shutil.copytree(run[0], tmp_path / "run")
    leave_weights(out)
    assert len(final_weights(RunFolder(out))) == 2
    shutil.rmtree(out / "checkpoints" / "step_000002")
    train_on(out, steps=2)
    assert final_weights(RunFolder(out)) == []


@pytest.mark.parametrize(
    ("weights", "told"), [(1.5, "| steps | 2 |"), ({"obedience": "much"}, "| weight of obedience | much |")]
)
def test_settings_of_other_types_are_shown_as_they_are(run, tmp_path, weights, told):
    out = shutil.copytree(run[0], tmp_path / "run")
    stored = json.loads((out / "config.json").read_text())
    stored["rewards"]["weights"] = weights
    (out / "config.json").write_text(json.dumps(stored))
    assert export(out, "--out", tmp_path / "given") == 0
    assert told in (tmp_path / "given" / "README.md").read_text()


@pytest.mark.parametrize(
    "damaged",
    [b"", b"[]", b'{"step": 2', b'{"format": 1, "step": 2, "doctor": {"events": true, "rows": {"step": 1}}}'],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_of_a_run_whose_newest_checkpoint_is_damaged_the_one_before_is_given_away(
    run, tmp_path, damaged, recorded
):
    out = shutil.copytree(run[0], tmp_path / "run")
    leave_weights(out)
    if not recorded:
        (out / "final.json").unlink()
        shutil.rmtree(out / "weights")
    (out / "checkpoints" / "step_000002" / "state.json").write_bytes(damaged)
    with pytest.warns(UserWarning, match="the one before it is used"):
        assert export(out, "--out", tmp_path / "given") == 0
    card = (tmp_path / "given" / "README.md").read_text()
    assert "after 1 training steps" in card and "critics: obedience, cleanliness." in card
    train_on(out, steps=2)
    assert final_weights(RunFolder(out)) == []


def test_files_of_an_export_that_was_killed_are_not_given_away(run, tmp_path):
    """Those of an earlier end of the run lie there still, and the newest checkpoint is of the last step again."""
    out = shutil.copytree(run[0], tmp_path / "run")
    leave_weights(out)
    train_on(out, steps=3)
    with pytest.raises(KeyboardInterrupt), exporting(RunFolder(out)):
        raise KeyboardInterrupt
    assert (out / "weights" / "world.safetensors").is_file() and final_weights(RunFolder(out)) == []
    assert export(out, "--out", tmp_path / "given") == 0
    assert [path.name for path in (tmp_path / "given").glob("*.safetensors")] == ["model.safetensors"]


@pytest.mark.parametrize("files", [None, 3, ["/etc/hostname"], ["../config.json"], ["a/../../config.json"]])
def test_a_record_names_files_of_its_folder_alone(run, tmp_path, files, capsys):
    """A run may come from anybody."""
    out = shutil.copytree(run[0], tmp_path / "run")
    leave_weights(out)
    record = json.loads((out / "final.json").read_text())
    (out / "final.json").write_text(json.dumps(record | {"files": files}))
    assert export(out, "--out", tmp_path / "given" / "deep") == 2
    assert "is not a record of final weights: expected files of" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if "host" in path.name] == []


def test_a_file_that_the_record_names_must_be_there(run, tmp_path, capsys):
    out = shutil.copytree(run[0], tmp_path / "run")
    leave_weights(out)
    (out / "weights" / "world.safetensors").unlink()
    assert export(out, "--out", tmp_path / "a") == 2
    assert "world.safetensors is missing, which" in capsys.readouterr().err and not (tmp_path / "a").exists()


@pytest.mark.parametrize("exported", [True, False])
def test_weights_that_are_not_finite_are_not_given_away(run, tmp_path, exported, capsys):
    copy = shutil.copytree(run[0], tmp_path / "run")
    if exported:
        with exporting(RunFolder(copy)) as weights:
            weights.mkdir()
            save_file({"w": torch.tensor([1.0, torch.nan])}, weights / "lora.safetensors")
    else:
        for checkpoint in (copy / "checkpoints").iterdir():
            tensors, state = load_checkpoint(checkpoint)
            broken = {name: t * torch.nan if "checkpoint/" in name else t for name, t in tensors.items()}
            save_checkpoint(checkpoint.parent, broken, state)
    assert export(copy, "--out", tmp_path / "given") == 2
    said = capsys.readouterr().err
    assert ("lora.safetensors holds weights that are not finite (w)" if exported else "can be used") in said
    assert not (tmp_path / "given").exists() and not list(tmp_path.glob(".unfinished*"))


def test_what_cannot_be_exported_is_a_sentence(run, tmp_path, capsys):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "metrics.jsonl").write_text('{"step": 1, "rewards": {}}\n')
    for words, told in (
        ((tmp_path / "none", "--out", tmp_path / "x"), "is not a run folder"),
        ((tmp_path / "new", "--out", tmp_path / "x"), "holds no checkpoint yet"),
        ((run[0], "--out", tmp_path / "used"), "is not an empty folder: choose another --out"),
    ):
        assert export(*words) == 2
        words_said = capsys.readouterr().err
        assert told in words_said and words_said.count("\n") == 1
    assert not (tmp_path / "x").exists()


class FakeHub:
    """What this project uses of huggingface_hub: HfApi().create_repo, upload_folder, and its error."""

    class HfHubHTTPError(RuntimeError, OSError):
        pass

    def __init__(self, refuses=False):
        self.refuses, self.calls = refuses, []
        self.errors = SimpleNamespace(HfHubHTTPError=self.HfHubHTTPError)

    def HfApi(self):
        return self

    def create_repo(self, repository, *, private, exist_ok):
        if self.refuses:
            raise self.HfHubHTTPError("401 Client Error\nInvalid credentials")
        self.calls.append((repository, private, exist_ok))
        return f"https://hub/{repository}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.calls.append((repo_id, sorted(os.listdir(folder_path))))


@pytest.fixture
def hub(monkeypatch):
    def put(fake):
        monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
        monkeypatch.setitem(sys.modules, "huggingface_hub.errors", fake and fake.errors)
        return fake

    return put


def test_a_push_is_private_unless_asked_and_says_what_the_hub_minds(run, tmp_path, hub, capsys):
    fake = hub(FakeHub())
    assert export(run[0], "--out", tmp_path / "given", "--push", "me/toy") == 0
    assert fake.calls == [("me/toy", True, True), ("me/toy", ["README.md", "model.safetensors"])]
    assert "pushed to https://hub/me/toy" in capsys.readouterr().out
    assert export(run[0], "--out", tmp_path / "open", "--push", "me/toy", "--public") == 0
    assert fake.calls[2] == ("me/toy", False, True)
    hub(FakeHub(refuses=True))
    assert export(run[0], "--out", tmp_path / "kept", "--push", "me/toy") == 2
    said = capsys.readouterr().err
    assert "refused me/toy (401 Client Error): log in" in said and said.count("\n") == 1
    assert (tmp_path / "kept" / "README.md").exists()
    hub(None)
    with pytest.raises(UserError, match=r"worldcompass\[hub\]"):
        push(tmp_path / "kept", "me/toy")


class _Endpoint(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as a push of small files takes."""

    asked: list = []  # noqa: RUF012
    files: dict = {}  # noqa: RUF012

    def do_POST(self):
        size = self.headers.get("Content-Length")
        body = self.rfile.read(int(size)) if size else self._chunks()
        self.asked.append(self.path)
        host = f"http://{self.headers['Host']}"
        answer = {}
        if self.path == "/api/repos/create":
            wish = json.loads(body)
            assert wish.get("private") is True or wish.get("visibility") == "private", wish
            answer = {"url": f"{host}/me/toy", "id": "me/toy", "private": True}
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            answer = {
                "files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            }
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            answer = {"commitUrl": f"{host}/me/toy/commit/1", "commitOid": "1", "success": True}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        self._say(answer)

    def do_GET(self):
        self.asked.append(self.path)
        self._say({"id": "me/toy", "sha": "0", "siblings": [], "private": True})

    def _chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def _say(self, answer):
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_the_real_package_pushes_to_an_endpoint_on_loopback(run, tmp_path, monkeypatch):
    package = pytest.importorskip("huggingface_hub", reason="needs the package huggingface_hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    real = package.HfApi
    monkeypatch.setattr(package, "HfApi", lambda: real(endpoint=address, token="hf_nobody"))
    monkeypatch.setattr(importlib.import_module("huggingface_hub.constants"), "ENDPOINT", address)
    assert export(run[0], "--out", tmp_path / "given", "--push", "me/toy") == 0
    server.shutdown()
    server.server_close()
    for name in ("README.md", "model.safetensors"):
        assert _Endpoint.files[name] == (tmp_path / "given" / name).read_bytes()


def test_every_file_is_on_the_card_and_a_pickled_one_is_checked(run, tmp_path, capsys):
    out = shutil.copytree(run[0], tmp_path / "run")
    with exporting(RunFolder(out)) as weights:
        weights.mkdir()
        torch.save({"generator": {"a": torch.ones(2)}, "step": 2}, weights / "model.pt")
        (weights / "config.json").write_text("{}")
    assert export(out, "--out", tmp_path / "given") == 0
    card = (tmp_path / "given" / "README.md").read_text()
    assert "of the world `toy`: `config.json`, `model.pt`." in card
    with exporting(RunFolder(out)) as weights:
        torch.save(
            {"generator": {"a": torch.ones(2), "b": torch.tensor([1.0, torch.nan])}}, weights / "model.pt"
        )
    capsys.readouterr()
    assert export(out, "--out", tmp_path / "broken") == 2 and not (tmp_path / "broken").exists()
    assert "model.pt holds weights that are not finite (generator.b)" in capsys.readouterr().err
    with exporting(RunFolder(out)) as weights:
        torch.save({"a": SimpleNamespace()}, weights / "model.pt")
    assert export(out, "--out", tmp_path / "code") == 2
    assert "holds more than tensors" in capsys.readouterr().err
