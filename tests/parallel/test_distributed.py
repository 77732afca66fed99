"""Several real processes train like one: plain and sharded, full and with adapters, saved and resumed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import ranks
import torch
from ranks import SMALL, SPREAD, VARIANTS, outcome, post_train, together, toy_world
from toy_worlds import FewSteps, NoisyPast

from worldcompass import cli
from worldcompass.errors import EXIT_LOST_RANK, LostCritic, UserError
from worldcompass.parallel.launch import launch, number_of_ranks
from worldcompass.parallel.sharding import home_of, shard, whole
from worldcompass.parallel.signals import notices_raise
from worldcompass.parallel.team import Team, check_same_versions, joined
from worldcompass.rollout import RolloutRequest, imagine_groups, imagine_whole_videos
from worldcompass.runs.checkpoint import CheckpointState, latest_checkpoint, load_checkpoint, save_sharded
from worldcompass.toy import ToyCleanliness, ToyObedience, toy_scenarios
from worldcompass.training.config import Config
from worldcompass.training.loop import train

TOLERANCE = 2e-5  # relative; only the order of additions differs
BF16 = 2e-2  # a gathered bfloat16 weight is autocast's, but gradients are summed in another order


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, Path]:
    """Every variant trained by one process."""
    root = tmp_path_factory.mktemp("alone")
    torch.set_num_threads(1)
    for name, config in VARIANTS.items():
        post_train(root / name, config)
    return {name: root / name for name in VARIANTS}


RUNS = {
    2: [
        *((variant, spread) for variant in ("full", "muon", "lora") for spread in ("plain", "sharded")),
        ("bf16", "sharded"),
        ("bf16", "gathered in bf16"),
        ("full", "one group on two"),
        ("muon", "one group on two, sharded"),
    ],
    4: [
        ("muon", "plain"),
        ("muon", "hybrid, offloaded"),
        ("lora", "sharded"),  # of whose matrices two ranks hold nothing
        ("muon", "one group on two"),
    ],
}


def train_all(root: Path, runs: list[tuple[str, str]]) -> None:
    for variant, spread in runs:
        post_train(root / variant / spread, VARIANTS[variant].changed(**SPREAD[spread]))


def agree(got: Path, expected: Path, tolerance: float = TOLERANCE, but: tuple[str, ...] = ()) -> None:
    rows, tensors = outcome(got)
    rows_expected, tensors_expected = outcome(expected)
    for row, row_expected in zip(rows, rows_expected, strict=True):
        told = {name: value for name, value in row.items() if name not in but}
        assert told == pytest.approx({n: row_expected[n] for n in told}, rel=max(1e-3, tolerance), abs=1e-6)
    assert tensors.keys() == tensors_expected.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, tensors_expected[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("size", RUNS)
def test_several_processes_train_like_one(size, alone, tmp_path):
    assert together(size, train_all, tmp_path, RUNS[size]) == [0] * size
    for variant, spread in RUNS[size]:
        saved = tmp_path / variant / spread
        # Ranks that share a group imagine its past each, all at once.
        but = ("forward_passes",) if "one group" in spread else ()
        agree(saved, alone[variant], BF16 if variant == "bf16" else TOLERANCE, but)
        shards = len(list(saved.glob("checkpoints/step_*/shard-*.safetensors")))
        assert (shards > 0) == bool(SPREAD[spread].get("shard")), "sharded runs save through DCP"
        looks = {path.name for path in saved.glob("samples/*.mp4")}
        assert looks == ({"before.mp4", "step_000001.mp4", "step_000003.mp4"} if variant == "muon" else set())


def go_on(root: Path, names: list[str], config) -> None:
    for name in names:
        post_train(root / name, config, resume=True)


def damage_a_shard(checkpoint: Path) -> None:
    shard = sorted(checkpoint.glob("shard-*.safetensors"))[-1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def as_an_earlier_version_wrote_it(checkpoint: Path) -> None:
    path = checkpoint / "state.json"
    state = json.loads(path.read_text())
    new = {"checksum", "events", "config"}
    path.write_text(json.dumps({name: value for name, value in state.items() if name not in new}))


def test_a_run_of_two_sharded_processes_resumes_on_one_and_four(alone, tmp_path):
    post_train(tmp_path / "earlier", SMALL.changed(steps=2))
    as_an_earlier_version_wrote_it(tmp_path / "earlier" / "checkpoints" / "step_000002")
    assert together(2, post_train, tmp_path / "four", SMALL.changed(steps=2, shard=True)) == [0, 0]
    shutil.copytree(tmp_path / "four", tmp_path / "one")
    shutil.copytree(tmp_path / "four", tmp_path / "damaged")
    damage_a_shard(tmp_path / "damaged" / "checkpoints" / "step_000002")
    with pytest.warns(UserWarning, match="step_000002 is damaged"):
        post_train(tmp_path / "damaged", SMALL, resume=True)
    damage_a_shard(tmp_path / "four" / "checkpoints" / "step_000002")
    post_train(tmp_path / "one", SMALL, resume=True)
    hybrid = SMALL.changed(**SPREAD["hybrid, offloaded"])
    assert together(4, go_on, tmp_path, ["four", "earlier"], hybrid) == [0] * 4
    for name in ("one", "four", "damaged", "earlier"):
        agree(tmp_path / name, alone["full"])


def check_together(out: Path) -> None:
    """Several checks in one pair of processes, as a start takes seconds."""
    swapped_weights_reach_units_and_the_root()
    bf16_is_gathered_but_reduced_in_float32()
    a_failing_disk_ends_all_and_harms_nothing(out / "disk")
    the_users_mistakes_are_known_to_all(out / "mistakes")
    ranks_of_a_group_share_one_past()


def swapped_weights_reach_units_and_the_root() -> None:
    """The network computes with swapped weights in every unit and in the root."""
    net = shard(ranks.toy_world().net)
    policy = ranks.Policy(net)
    signs = torch.ones(1, 1, 4)
    before = net(signs)
    for weights in policy.behaviour_weights.values():
        weights.mul_(0.5)
    with policy.behaviour():
        swapped = net(signs)
    assert torch.equal(net(signs), before)
    plain = ranks.Layered()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(whole(policy.behaviour_weights[name]))
    torch.testing.assert_close(swapped, plain(signs))


def bf16_is_gathered_but_reduced_in_float32() -> None:
    net = shard(ranks.toy_world().net, bf16=True)
    seen = []
    net.inner.register_forward_pre_hook(
        lambda module, args: seen.append((module.weight.dtype, args[0].dtype))
    )
    generator = torch.Generator().manual_seed(Team.current().rank)
    with torch.autocast("cpu", torch.bfloat16):
        (net(torch.randn(8, 1, 4, generator=generator)).float() * torch.arange(12)).sum().backward()
    assert seen == [(torch.bfloat16, torch.float32)], "what goes in keeps its precision"
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    grads = torch.cat([whole(p.grad).flatten() for p in net.parameters()])
    assert grads.dtype == torch.float32
    assert not torch.equal(grads.bfloat16().float(), grads), "a mean of two that bfloat16 could not hold"


def a_failing_disk_ends_all_and_harms_nothing(root: Path) -> None:
    team, net = Team.current(), shard(ranks.toy_world().net)
    tensors = {f"policy/live/{name}": p for name, p in net.named_parameters()}
    save_sharded(root, tensors, CheckpointState(1), team, keep=1)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    for rank, where, told in (
        (1, "safetensors.torch.save", r"No space left on device: '.*step_000002'"),
        (0, "worldcompass.runs.atomic.os.replace", "No space left"),
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match=told):
            if team.rank == rank:
                patch.setattr(where, full)
            save_sharded(root, tensors, CheckpointState(2), team, keep=1)
        newest = latest_checkpoint(root)
        assert newest is not None and newest.name == "step_000001"
    team.wait()
    save_sharded(root, tensors, CheckpointState(2), team, keep=1)
    loaded, _ = load_checkpoint(root / "step_000002", team=team)
    assert all(torch.equal(loaded[name], whole(tensor)) for name, tensor in tensors.items())
    assert [path.name for path in root.iterdir()] == ["step_000002"]
    assert not [path for path in root.rglob("*") if path.suffix not in ("", ".json", ".safetensors")]


def the_users_mistakes_are_known_to_all(out: Path) -> None:
    post_train(out, SMALL.changed(steps=1))
    with pytest.raises(
        UserError, match=r"another --out, or resume with these by --accept-changes"
    ) as mistake:
        post_train(out, SMALL.changed(lr=0.5), resume=True)
    assert "lr: 0.01 -> 0.5" in str(mistake.value)
    with pytest.raises(UserError, match="already holds a run"):
        post_train(out, SMALL)
    with pytest.raises(UserError, match=r"cannot write to .*Not a directory"):
        post_train(out / "metrics.jsonl" / "run", SMALL)
    team = Team.current()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=r"rank 1 runs .*0\.0\.1"):
        if team.rank == 1:
            patch.setattr("worldcompass.parallel.team.__version__", "0.0.1")
        check_same_versions(team)


def ranks_of_a_group_share_one_past() -> None:
    """Each imagines half of the candidates from the same past, with the results of one process."""
    team = Team.current(per_group=2)
    for world in (ranks.toy_world(), NoisyPast(), FewSteps()):
        request = RolloutRequest(toy_scenarios(2), 1, 4, 4, (0, 1), world.spec.sigmas())
        (everything,) = imagine_groups(world, request)
        (own,) = imagine_groups(world, replace(request, candidates=team.candidates(4)))
        assert len(own.clean_BCKHW) == 4 and len(everything.clean_BCKHW) == 8
        assert torch.equal(team.with_siblings(own.clean_BCKHW, 2), everything.clean_BCKHW)
        pasts = team.gather_objects(own.context.latents_PCMHW)
        assert torch.equal(pasts[0], pasts[1])


def test_two_processes_hold_to_what_they_must(tmp_path):
    assert together(2, check_together, tmp_path) == [0, 0]


def test_an_offloaded_parameter_computes_on_its_mesh_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    here = torch.device("cpu")
    offloaded = SimpleNamespace(device=here, device_mesh=SimpleNamespace(device_type="cuda"))
    sharded = SimpleNamespace(device=here, device_mesh=SimpleNamespace(device_type="cpu"))
    assert home_of(offloaded) == torch.device("cuda", 3)
    assert home_of(sharded) == home_of(torch.ones(1)) == here


def test_a_taken_port_is_reported_before_ranks_connect(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        monkeypatch.setenv("MASTER_PORT", port)
        with pytest.raises(UserError, match=f"port {port} is taken: set MASTER_PORT"):
            launch(["train"], 2)
        for nonsense in ("http", "65536"):
            monkeypatch.setenv("MASTER_PORT", nonsense)
            with pytest.raises(UserError, match=f"MASTER_PORT is {nonsense}: expected a port's number"):
                launch(["train"], 2)
        monkeypatch.setenv("MASTER_PORT", port)
        for name, value in {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=f"port {port} is taken: set MASTER_PORT"), joined():
            raise AssertionError("nobody can be met there")


def test_sizes_that_do_not_divide_are_refused_with_those_that_do(monkeypatch):
    with pytest.raises(UserError, match="use 1, 2, 3, 6 processes or a multiple of 4 prompts"):
        Team(0, 4).check_divides(6)
    with pytest.raises(UserError, match="use 2, 6 processes or a multiple of 2 prompts"):
        Team(0, 4, per_group=2).check_divides(3)
    with pytest.raises(UserError, match="use ranks_per_group 1, 2, 4 or a multiple of 3 processes"):
        Team(0, 4, per_group=3).check_divides(6)
    with pytest.raises(ValueError, match="must be multiples of ranks_per_group"):
        SMALL.changed(ranks_per_group=3)
    with pytest.raises(ValueError, match="candidates that share a past"):
        SMALL.changed(ranks_per_group=2, rollout=imagine_whole_videos)
    with pytest.raises(ValueError, match="offload and gather_bf16 need shard=true"):
        SMALL.changed(offload=True)
    with pytest.raises(UserError, match="expected auto or a number"):
        number_of_ranks("two", "cpu")
    assert number_of_ranks("auto", "cpu") == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (number_of_ranks("auto", "cuda"), number_of_ranks("3", "cuda")) == (4, 3)
    with pytest.raises(UserError, match="this machine has 4 GPUs: use --nproc 4 or less"):
        number_of_ranks("8", "cuda")


@pytest.fixture
def command(monkeypatch, capfd):
    """``worldcompass train --nproc 2`` launched by this process: the exit code, and what was said of errors."""

    def train(out: Path, *words: str, **environment: str) -> tuple[int, str]:
        words = ("train", f"{Path(ranks.__file__)}:toy", "--out", str(out), "--nproc", "2", *words)
        monkeypatch.setattr(sys, "argv", ["worldcompass", *words])  # which the launcher gives to the ranks
        for name, value in {"OMP_NUM_THREADS": "1", **environment}.items():
            monkeypatch.setenv(name, value)
        code = cli.main(words)
        return code, capfd.readouterr().err

    return train


@pytest.fixture
def forked_ranks(monkeypatch):
    """The launcher's ranks are forked off a server; other tests start real ones."""
    monkeypatch.setattr("worldcompass.parallel.launch.subprocess", forked.as_subprocess)


def test_a_dead_rank_is_named_and_torchrun_restarts_the_run(alone, command, forked_ranks, tmp_path):
    sharded = ("--set", "config.shard=true")
    code, said = command(tmp_path / "run", *sharded, DIE="1:1")
    assert code == 1
    *warned, last = said.splitlines()  # FSDP2 has a word about CPUs
    assert last.startswith("error: rank 1 of 2 was killed by signal 9") and last.endswith(" --resume")
    assert not [line for line in warned if "error" in line.lower() or "Traceback" in line], "one message"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
                "--nproc-per-node", "2",
                "--max-restarts", "1", "--monitor-interval", "0.2", "-m", "worldcompass", "train",
                f"{Path(ranks.__file__)}:toy", "--out", str(tmp_path / "run"), *sharded]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DIE": "1:2",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    restarted = subprocess.run(torchrun, env=environment, capture_output=True, text=True, timeout=400)
    assert restarted.returncode == 0, restarted.stderr
    assert (tmp_path / "run" / "died_at_2").exists()
    assert f"{tmp_path / 'run'} holds a run: resuming after step 2" in restarted.stdout
    agree(tmp_path / "run", alone["full"])


def test_a_failing_rank_is_named_with_its_error_and_stops_the_others(command, tmp_path):
    """It exits although others wait for it, and no thread of the group aborts its exit."""
    code, said = command(tmp_path / "run", FAIL="1:1")
    assert time.time() - (tmp_path / "run" / "died_at_1").stat().st_mtime < 60
    *shown, last = said.strip().splitlines()
    assert code == 1 and shown[0] == "Traceback (most recent call last):"
    assert last.startswith(
        "error: rank 1 of 2 ended with exit code 1 (ValueError: planted by a test); the others"
    )
    assert "lost the connection" not in said
    assert (tmp_path / "run" / "checkpoints" / "step_000001").is_dir()


OUTLIVED = """
import atexit, threading, time
from worldcompass.cli import main
threading.Thread(target=time.sleep, args=(300,)).start()  # of a library, never joined
atexit.register(print, "closed")
main(["--version"])
"""


def test_a_rank_that_is_done_ends_although_a_thread_outlives_it():
    done = subprocess.run(
        [sys.executable, "-c", OUTLIVED],
        env={**os.environ, "RANK": "0"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "closed"), (
        "what was registered for the exit ran"
    )


LATE = "import sys, time; time.sleep(0.5); print('error: out of memory', file=sys.stderr); sys.exit(2)"
KILLED = "import os; os.kill(os.getpid(), 9)"
ENDS = {  # what ranks 0 and 1 do, the exit code of both together, what is said of them
    "the mistake of one": ("exit(75)", LATE, 2, "rank 1 of 2 ended with exit code 2 (out of memory);"),
    "a verdict of all": ("exit(1)", "exit(1)", 1, ""),
    "a mistake of all": ("exit(2)", "exit(2)", 2, ""),
    "the main one's failure": ("exit(3)", "exit(75)", 1, "rank 0 of 2 ended with exit code 3 (see above);"),
    "a line that was cut": ("exit(75)", "exit(75)", 1, " of 2 lost the connection to another one;"),
    "a kill": ("import time; time.sleep(60)", KILLED, 1, "rank 1 of 2 was killed by signal 9;"),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_failed_rank_is_named_once_in_any_order_of_exits(end, monkeypatch, capfd):
    *scripts, code, said = ENDS[end]
    real = subprocess.Popen

    def start(words, **options):
        return real([sys.executable, "-c", scripts[int(options["env"]["RANK"])]], **options)

    monkeypatch.setattr("worldcompass.parallel.launch.subprocess.Popen", start)
    monkeypatch.setattr("worldcompass.parallel.launch.GRACE", 2.0)
    assert launch(["train", "my recipe.py:mine"], 2) == code
    words = capfd.readouterr().err
    assert said in words and words.count("\n") == bool(said)
    assert not said or words.endswith("worldcompass train 'my recipe.py:mine' --resume\n")


def die_while_saving(out: Path, config: Config, rank: int, where: str) -> None:
    """``rank`` is killed in the middle of writing the second step's checkpoint."""

    def die(step: int, *_) -> None:
        if step == 1 and Team.current().rank == rank:
            pytest.MonkeyPatch().setattr(where, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))

    post_train(out, config, on_step=die)


def test_a_rank_that_dies_while_saving_loses_at_most_that_step(alone, tmp_path):
    ways = {
        "main": (SMALL, 0, "worldcompass.runs.atomic.os.replace", [-signal.SIGKILL, EXIT_LOST_RANK]),
        "shard": (
            SMALL.changed(shard=True), 1, "safetensors.torch.save", [EXIT_LOST_RANK, -signal.SIGKILL],
        ),
    }  # fmt: skip
    for name, (config, rank, where, codes) in ways.items():
        assert together(2, die_while_saving, tmp_path / name, config, rank, where) == codes
        newest = latest_checkpoint(tmp_path / name / "checkpoints")
        assert newest is not None and newest.name == "step_000001"
        post_train(tmp_path / name, SMALL, resume=True)
        agree(tmp_path / name, alone["full"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_to_the_launcher_reaches_the_ranks_which_save(number, code, tmp_path):
    """Also for a signal that the launcher cannot catch: no rank survives."""
    out = tmp_path / "run"
    words = ["train", f"{Path(ranks.__file__)}:toy", "--out", str(out), "--nproc", "2", "--set", "config.steps=200",
             "--set", "config.save_every=100"]  # fmt: skip
    reading, writing = os.pipe()
    process = forked.ForkedLauncher(
        [sys.executable, "-m", "worldcompass", *words], stderr=writing, env={**os.environ, "SLOW": "1"}
    )
    os.close(writing)
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text().count("\n"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    said = forked.all_said(reading, 200)  # until no rank is left
    os.close(reading)
    assert process.wait(200) == code and "stopped after step" in said, said
    assert len(list((out / "checkpoints").glob("step_*"))) == 1


def test_a_launcher_stopped_by_a_signal_reports_the_signal(monkeypatch, capsys):
    """A second signal stops ranks inside a collective, so one of them may only report a lost connection."""
    lost = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print(); time.sleep(60)"

    def start(words, rank, *_):
        process = subprocess.Popen([sys.executable, "-c", lost], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline(), "it hears signals now"
        if rank == 1:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return process

    monkeypatch.setattr("worldcompass.parallel.launch._start", start)
    with notices_raise():
        assert launch(["train"], 2) == 143
    assert capsys.readouterr().err == "stopped by signal 15; saved steps are kept\n"


def lose(out: Path) -> None:
    """Rank 1's critic is lost in the second step."""

    class Breaks(ToyObedience):
        calls = 0

        def __call__(self, group):
            Breaks.calls += 1
            if Team.current().rank == 1 and Breaks.calls == 4:
                raise LostCritic("the critic obedience failed 4 times")
            return super().__call__(group)

    config = SMALL.changed(save_every=100)
    with pytest.raises(LostCritic, match="the critic obedience failed 4 times"):
        train(toy_world(), [Breaks(), ToyCleanliness()], toy_scenarios(8), config, out, live=False)


def test_a_lost_critic_stops_all_ranks_and_finished_steps_are_saved(tmp_path):
    assert together(2, lose, tmp_path / "run") == [0, 0]
    assert [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000001"]


def test_a_users_mistake_is_reported_once_and_stops_all_ranks(command, forked_ranks, tmp_path):
    code, said = command(tmp_path / "run", "--set", "config.prompts_per_step=3")
    assert code == 2
    assert said.count("prompts_per_step is 3, which 2 processes cannot share evenly") == 1
