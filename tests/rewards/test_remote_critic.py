"""A critic in another process: the same scores, and every way in which it can fail, with real servers."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from controls_of_a_gripper import MOUSE
from fastapi import HTTPException
from overlap import SECONDS, check_overlap

from worldcompass import api
from worldcompass.errors import LostCritic, UserError
from worldcompass.media.video import write_mp4
from worldcompass.rewards.remote import RemoteCritic
from worldcompass.rewards.wire import VERSION, WireError, pack_group, pack_scores, unpack_group, unpack_scores
from worldcompass.serving.scoring import Scorer, score_group
from worldcompass.testing import check_critic, noise_group
from worldcompass.toy import ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train
from worldcompass.training.selection import Learning
from worldcompass.types import Truth

GROUP = noise_group(3)
SMALL = Config(
    steps=2,
    sampling=Sampling(prompts_per_step=2, group_size=4, last_chunk=0, denoising_steps=2),
    learning=Learning(best=1, worst=1, noise_levels=1),
    keeping=Keeping(save_every=1),
)
HEALTHY = {"critic": "stub", "wire": VERSION}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of the real command in a separate process."""
    file = tmp_path_factory.mktemp("critic") / "mine.py"
    file.write_text("from worldcompass.toy import ToyObedience\n\ndef make():\n    return ToyObedience()\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "worldcompass", "serve-reward", f"{file}:make", "--port", port],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None and "answers at" in process.stdout.readline()
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while True:
        try:
            RemoteCritic(address)
            break
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait()


class Stub:
    """A server that answers /score with a list of answers, then repeats the last one."""

    def __init__(self, *answers, health=HEALTHY):
        rest, self.patience = list(answers), 1.0 if "hang" in answers else 60.0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(200, health)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                answer = rest.pop(0) if len(rest) > 1 else rest[0]
                if answer == "hang":
                    time.sleep(4)
                elif isinstance(answer, int):
                    self.reply(answer, {"detail": "broken"})
                else:
                    self.reply(200, answer)

            def reply(self, code, content):
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return RemoteCritic(self.address, timeout=self.patience, sleep=lambda _: None)

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def good(*values):
    return {"critic": "stub", "values": list(values), "valid": [True] * len(values)}


def test_a_group_arrives_as_it_was_sent():
    sent = replace(GROUP, past_actions=GROUP.actions, caption="a lake")
    received = unpack_group(pack_group(sent))
    assert torch.equal(received.frames_GF3hw, sent.frames_GF3hw) and received.caption == "a lake"
    for part in (received.actions, received.past_actions):
        assert part is not None and torch.equal(
            part.world_from_camera_K44, GROUP.actions.world_from_camera_K44
        )
    assert received.truth is None


def test_remote_scores_equal_local_ones_and_training_is_identical(served, tmp_path):
    remote = RemoteCritic(served)
    assert remote.name == ToyObedience().name
    policies = [
        train(ToyWorld(), [critic], toy_scenarios(4), SMALL, tmp_path / name, live=False)
        for name, critic in (("here", ToyObedience()), ("there", remote))
    ]
    for here, there in zip(*(policy.parameters for policy in policies), strict=True):
        assert torch.equal(here, there)
    check_critic(RemoteCritic(served))


def test_the_same_address_scores_videos(served, tmp_path):
    """The player uses the same handler."""
    frames = torch.zeros(5, 3, 48, 64, dtype=torch.uint8)
    clip = write_mp4(tmp_path / "clip.mp4", frames, 8).read_bytes()
    with urllib.request.urlopen(urllib.request.Request(f"{served}/score?path=w-1", clip)) as reply:
        answer = json.load(reply)
    assert answer["scores"] == api.score(frames, "w-1", [ToyObedience()]) and answer["sharpness"] == 1


def test_pages_of_other_sites_and_foreign_names_are_refused(served):
    """A page in a browser on this machine can reach loopback, but must get no answer."""
    port = served.rpartition(":")[2]
    welcome = ({}, {"Origin": served}, {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"})
    refused = ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": f"evil.example:{port}"})
    for headers in (*welcome, *refused):
        for path, body in (("/health", None), ("/score", pack_group(GROUP))):
            request = urllib.request.Request(served + path, body, headers)
            if headers in welcome:
                with urllib.request.urlopen(request) as reply:
                    assert reply.status == 200 and reply.headers["X-Content-Type-Options"] == "nosniff"
            else:
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    urllib.request.urlopen(request)


@pytest.mark.parametrize(
    "first",
    ["hang", 500, good(1.0), good(1.0, float("nan"), 2.0), b"not json", {"values": None}],
    ids=["hangs", "error", "wrong count", "nan", "no json", "no list"],
)
def test_a_failed_try_is_made_again(first):
    with Stub(first, good(1.0, 2.0, 3.0)) as critic, pytest.warns(UserWarning, match="is asked again"):
        assert critic(GROUP).values_G.tolist() == [1, 2, 3] and critic.tries == (2, 1)


@pytest.mark.filterwarnings("ignore:the critic")
@pytest.mark.parametrize(
    ("answer", "words"),
    [("hang", "it took too long"), (500, "HTTP 500"), (good(1.0), "expected 3 scores, got 1"),
     (good(1.0, float("nan"), 2.0), "not finite")],
)  # fmt: skip
def test_when_all_tries_fail_one_sentence_says_why(answer, words):
    with Stub(answer) as critic, pytest.raises(UserError, match=words) as failure:
        critic(GROUP)
    assert "failed 4 times" in str(failure.value) and "--resume" in str(failure.value)


def test_a_group_that_the_critic_refuses_is_sent_once():
    with Stub(422) as critic, pytest.raises(LostCritic, match=r"refuses a group: HTTP 422 .*broken"):
        critic(GROUP)
    assert critic.tries == (0, 0)


@pytest.mark.parametrize(("error", "code"), [(ValueError("too small"), 422), (RuntimeError("full"), 500)])
def test_the_server_tells_a_refusal_from_a_failure(error, code):
    class Breaks(ToyObedience):
        def __call__(self, group):
            raise error

    with pytest.raises(HTTPException, match="the critic obedience failed: ") as said:
        score_group(pack_group(GROUP), Scorer((Breaks(),), ToyWorld().spec))
    assert said.value.status_code == code


def test_a_server_that_is_down_or_another_is_refused_at_once():
    with pytest.raises(UserError, match="no critic answers at"):
        RemoteCritic("http://127.0.0.1:1")
    for wrong in (
        "127.0.0.1:8770",
        "localhost:8770",
        "http://[::1:8770",
        "http://127.0.0.1:port",
        "http://",
        "",
    ):
        with pytest.raises(UserError, match="is no address of a server: expected one such as http://"):
            RemoteCritic(wrong)
    with pytest.raises(UserError, match="is no critic of wire version 2"):
        Stub(good(), health={"status": "ok"}).__enter__()


def test_a_run_resumes_after_its_remote_critic_died(tmp_path):
    class Dies(ToyObedience):
        calls = 0

        def __call__(self, group):
            Dies.calls += 1
            if Dies.calls == 3:  # in the middle of the second step
                raise UserError("the critic stub failed 4 times")
            return super().__call__(group)

    with pytest.raises(UserError, match="failed 4 times"):
        train(ToyWorld(), [Dies()], toy_scenarios(4), SMALL, tmp_path / "run", live=False)
    resumed = train(ToyWorld(), [ToyObedience()], toy_scenarios(4), SMALL, tmp_path / "run", True, live=False)
    straight = train(ToyWorld(), [ToyObedience()], toy_scenarios(4), SMALL, tmp_path / "other", live=False)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters, straight.parameters, strict=True))


def test_scoring_over_http_overlaps_imagining(tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"critic": "obedience", "wire": VERSION})

        def do_POST(self):
            group = unpack_group(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(SECONDS)
            self.reply(pack_scores("obedience", ToyObedience()(group)))

        def reply(self, content):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        check_overlap(RemoteCritic(f"http://127.0.0.1:{server.server_port}"), tmp_path)
        server.shutdown()


@pytest.mark.parametrize("body", [b"", b"\x80\x04pickle", pack_group(GROUP)[:100]])
def test_bodies_that_are_no_groups_are_refused(body):
    with pytest.raises(WireError, match="expected a group"):
        unpack_group(body)
    with pytest.raises(WireError):
        unpack_scores(json.loads("[]"), 3)


def test_pixels_of_another_kind_are_refused():
    with pytest.raises(WireError, match="first_frame_3hw"):
        unpack_group(pack_group(replace(GROUP, first_frame_3hw=GROUP.first_frame_3hw[..., :5])))


def test_a_group_of_controls_and_its_truth_arrive_as_they_were_sent():
    actions = MOUSE.along("jump-2, turn_left+forth-1")
    truth = Truth(GROUP.frames_GF3hw[0], actions)
    sent = replace(GROUP, actions=actions, past_actions=actions, truth=truth)
    got = unpack_group(pack_group(sent))
    for found in (got.actions, got.past_actions, got.truth.actions):
        assert found.controls.values_KTA.equal(actions.values_KTA)
    assert got.truth.frames_F3hw.equal(truth.frames_F3hw)
    beyond = replace(actions, values_KTA=actions.values_KTA / 0)
    with pytest.raises(WireError, match=r"actions is .* expected finite float32 \(K, T, A\)"):
        unpack_group(pack_group(replace(sent, actions=beyond)))


def test_commands_that_do_not_fit_the_pixels_are_refused():
    """Such commands must not reach a critic, which would fail."""
    actions = GROUP.actions
    wrong = {
        "labels outside": replace(actions, labels_K=actions.labels_K + 81),
        "expected those of": replace(actions, intrinsics_K4=actions.intrinsics_K4[1:]),
        "expected candidates of": actions.latents(0, len(actions) - 1),
    }
    for words, commands in wrong.items():
        with pytest.raises(WireError, match=words):
            unpack_group(pack_group(replace(GROUP, actions=commands)))


def test_a_taken_port_is_refused(served, capsys, tmp_path):
    from worldcompass import cli

    file = Path(tmp_path / "mine.py")
    file.write_text("from worldcompass.toy import ToyObedience\n\ndef make():\n    return ToyObedience()\n")
    assert cli.main(["serve-reward", f"{file}:make", "--port", served.rpartition(":")[2]]) == 2
    assert "choose another with --port" in capsys.readouterr().err
    assert cli.main(["serve-reward", f"{file}:make", "--port", "99999"]) == 2
    assert "--port 99999 is out of range: expected 1 to 65535" in capsys.readouterr().err
