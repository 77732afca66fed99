"""A critic in real Ray actors: a separate Python, overlap, and every failure of an actor."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from pathlib import Path

import pytest
import torch
from overlap import GROUPS, SECONDS, SMALL, check_overlap, train_with
from pages import ROOT, python_blocks

import worldcompass
from worldcompass.errors import LostCritic, UserError
from worldcompass.rewards.ray_actors import RayCritic, RayOptions, imported_ray, start_ray
from worldcompass.testing import check_critic, noise_group
from worldcompass.toy import ToyCleanliness, ToyObedience, ToyWorld, toy_scenarios
from worldcompass.training.loop import train

if importlib.util.find_spec("ray") is None:
    pytest.skip("needs worldcompass[ray]", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore:the critic")

GROUP = noise_group(3)
RIGHT = ToyObedience()(GROUP).values_G
PATIENCE = 10.0  # seconds for a group


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A minimal Ray on this machine, whose node offers two units of a resource called scorer."""
    ray = imported_ray()
    start_ray(ray, num_cpus=1, resources={"scorer": 2}, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of another environment with a package that the trainer lacks."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(root), "platbase": str(root)}))
    (own / "heavy_scorer.py").write_text("VERSION = '2.0'\n")
    shared = sysconfig.get_path("purelib"), str(Path(worldcompass.__file__).parent.parent)
    (own / "shared.pth").write_text(
        "\n".join(shared) + "\n"
    )  # Ray, PyTorch and worldcompass, not installed twice
    return root / "bin" / "python"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A file with the critic's next actions, one word each; without any it scores."""
    return tmp_path_factory.mktemp("plan") / "plan"


@pytest.fixture(scope="module")
def open_before():
    """Sockets that were open before Ray started, such as those of other tests of this process."""
    return sockets_of(family())


@pytest.fixture(scope="module")
def critic(plan, python, open_before):
    def make():
        import heavy_scorer

        from worldcompass.types import Scores

        class Planned(ToyObedience):
            name = f"obedience {heavy_scorer.VERSION}"

            def __call__(self, group):
                words = plan.read_text().split() if plan.exists() else []
                plan.write_text(" ".join(words[1:]))
                scores = super().__call__(group)
                values, valid = scores.values_G, scores.valid_G
                match words[:1]:
                    case ["hang"]:
                        Path(f"{plan}.pid").write_text(str(os.getpid()))
                        time.sleep(600)
                    case ["die"]:
                        os._exit(1)
                    case ["raise"]:
                        raise RuntimeError("out of memory\non a device")
                    case ["nan"]:
                        values = values * float("nan")
                    case ["few"]:
                        values, valid = values[1:], valid[1:]
                    case ["abstain"]:
                        valid = torch.zeros_like(valid)
                return Scores(values, valid)

        return Planned()

    made = RayCritic(
        make,
        RayOptions(
            python=python,
            num_cpus=0.1,
            resources={"scorer": 1},
            timeout=PATIENCE,
            tries=2,
            name="obedience",
        ),
        sleep=lambda _: None,
    )
    assert importlib.util.find_spec("heavy_scorer") is None
    return made


def family():
    """This process and all its descendants."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # gone meanwhile
            parents[int(status.parent.name)] = int(re.findall(r"^PPid:\s*(\d+)", status.read_text(), re.M)[0])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an address of IPv6, and ::1, as the kernel writes them."""


def sockets_of(pids):
    """Numbers of the sockets of processes."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets |= set(re.findall(r"^socket:\[(\d+)\]$", os.readlink(descriptor)))
    return sockets


def heard_at(sockets):
    """Addresses, in the kernel's hexadecimal, on which sockets listen."""
    lines = [
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[9] in sockets}


@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="reads Linux's list of sockets")
def test_ray_listens_to_this_machine_alone(critic, open_before):
    """Every client of Ray's ports can run any code."""
    heard = heard_at(sockets_of(family()) - open_before)
    assert heard and heard <= LOOPBACK, "expected 127.0.0.1 and ::1 alone"


def test_a_ray_that_would_listen_to_others_is_not_used():
    code = (
        "import ray\nfrom worldcompass.errors import UserError\n"
        "from worldcompass.rewards.ray_actors import start_ray\n"
        "try: start_ray(ray, num_cpus=1, object_store_memory=80 * 2**20)\n"
        "except UserError as error: print(error, ray.is_initialized())"
    )
    plain = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=plain
    )
    assert "Ray would listen to other machines" in done.stdout and done.stdout.strip().endswith("False")


def test_scores_from_a_separate_environment_equal_local_ones(critic):
    assert torch.equal(critic(GROUP).values_G, RIGHT)
    check_critic(critic)


def test_an_abstention_is_one(critic, plan):
    plan.write_text("abstain")
    scores = critic(GROUP)
    assert not scores.valid_G.any() and bool(scores.values_G.isfinite().all())


@pytest.mark.parametrize(
    ("failure", "words"),
    [("hang", f"no answer within {PATIENCE:g} s"), ("die", "its process died"), ("raise", "on a device"),
     ("nan", "a score is not finite"), ("few", "expected 3 scores, got 2")],
)  # fmt: skip
def test_a_failed_try_is_made_again(critic, plan, failure, words):
    plan.write_text(failure)
    with pytest.warns(UserWarning, match=f"the critic obedience in Ray failed and is asked again: .*{words}"):
        assert torch.equal(critic(GROUP).values_G, RIGHT)
    assert not plan.read_text()


@pytest.mark.parametrize(("failure", "words"), [("nan", "not finite"), ("few", "got 2")])
def test_after_the_last_try_one_sentence_reports_why_and_scoring_resumes(
    critic, plan, failure, words, monkeypatch
):
    monkeypatch.setattr(critic._tries, "limit", 1)
    plan.write_text(failure)
    with pytest.raises(
        LostCritic, match=f"critic obedience in Ray failed 1 times, the last time: .*{words}"
    ) as said:
        critic(GROUP)
    assert "\n" not in str(said.value) and "--resume" in str(said.value)
    assert torch.equal(critic(GROUP).values_G, RIGHT)


def test_an_actor_killed_in_the_middle_of_a_step_changes_nothing(critic, plan, tmp_path):
    plan.write_text("score score hang")
    pid = Path(f"{plan}.pid")
    pid.unlink(missing_ok=True)

    def kill():
        while not pid.exists() or not pid.read_text():
            time.sleep(0.01)
        os.kill(int(pid.read_text()), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    begun = time.monotonic()
    state, rows = train_with(critic, tmp_path / "killed")
    assert not plan.read_text()
    straight = train_with(ToyObedience(), tmp_path / "straight")
    assert rows == straight[1] and all(
        torch.equal(state[name], tensor) for name, tensor in straight[0].items()
    )
    assert time.monotonic() - begun < 300, "the 600 s of what hangs were not awaited"


def test_a_run_that_lost_its_critic_keeps_finished_steps_and_resumes(critic, plan, tmp_path):
    config = SMALL.changed(steps=3)
    plan.write_text("score " * (2 * GROUPS + 1) + "nan nan")
    with pytest.raises(LostCritic, match="not finite"):
        train_with(critic, tmp_path / "run", config)
    assert [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000002"]
    critics = [critic, ToyCleanliness()]
    policy = train(ToyWorld(), critics, toy_scenarios(GROUPS), config, tmp_path / "run", True, live=False)
    straight = train_with(ToyObedience(), tmp_path / "straight", config)[0]
    assert all(torch.equal(policy.state()[name], tensor) for name, tensor in straight.items())


INSTALLS = """
import importlib.util

from worldcompass.errors import UserError
from worldcompass.rewards.ray_actors import RayCritic, RayOptions, imported_ray, start_ray
from worldcompass.testing import noise_group
from worldcompass.toy import ToyObedience


def make():
    import tabulate

    class Tabled(ToyObedience):
        name = f"obedience {tabulate.__version__}"

    return Tabled()


start_ray(imported_ray(), num_cpus=1, object_store_memory=80 * 2**20)
critic = RayCritic(make, RayOptions(pip=["tabulate==0.9.0"], num_cpus=0.1))
print(critic.name, importlib.util.find_spec("tabulate"), critic(noise_group(3)).values_G.tolist())
try:
    RayCritic(make, RayOptions(pip=["tabulate==999"], num_cpus=0.1))
except UserError as error:
    print(error)
"""


def test_packages_that_ray_installs_meet_the_critic_alone(python, tmp_path):
    """The trainer runs in a small environment, as Ray copies the trainer's whole."""
    pytest.importorskip("virtualenv", reason="Ray installs packages with virtualenv, which is not here")
    ask = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(tmp_path), "tabulate==0.9.0"]
    if subprocess.run(ask, capture_output=True, timeout=120).returncode:
        pytest.skip("no package index can be reached")
    script = tmp_path / "installs.py"
    script.write_text(INSTALLS)
    done = subprocess.run([python, script], capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    installed, refused = done.stdout.strip().splitlines()[-2:]
    assert installed == f"obedience 0.9.0 None {RIGHT.tolist()}"
    assert "its environment cannot be made: ERROR: No matching distribution" in refused


def test_missing_installer_is_reported_before_the_run(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "virtualenv" else real(name)
    )
    with pytest.raises(UserError, match="pip install virtualenv"):
        RayCritic(ToyObedience, RayOptions(pip=["tabulate==0.9.0"]))


def test_scoring_in_ray_overlaps_imagining(tmp_path):
    def make():
        class Slow(ToyObedience):
            def __call__(self, group):
                time.sleep(SECONDS)
                return super().__call__(group)

        return Slow()

    slow = RayCritic(make, RayOptions(num_cpus=0.1))  # in the trainer's own environment
    assert slow.name == "obedience"
    check_overlap(slow, tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"resources": {"cryogenic": 1}},
            r"no node of Ray has the resources of an actor of the critic \(CPU 0.1, cryogenic 1\)",
        ),
        ({"num_gpus": 1000}, "GPU 1000"),
        ({"python": "python3", "pip": ["hpsv3"]}, "give one of them"),
        (
            {},
            "the critic does not start in Ray: ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
        ),
        ({"python": "/nowhere/python"}, "there is no interpreter /nowhere/python"),
    ],
    ids=["resource", "gpus", "python and pip", "cannot be made", "no python"],
)
def test_actors_that_cannot_start_are_reported_before_the_run(options, words):
    def make():
        import a_package_that_nobody_has  # type: ignore[import-not-found]

        return a_package_that_nobody_has.Critic()

    with pytest.raises(UserError, match=words) as said:
        RayCritic(make, RayOptions(num_cpus=0.1, **options))
    assert "\n" not in str(said.value)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'worldcompass\[ray\]'"):
        RayCritic(ToyObedience)


def test_the_page_about_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "remote_rewards.md"
    (block,) = python_blocks(page)
    space: dict = {"__name__": "docs"}
    exec(compile(block, str(page), "exec"), space)
    assert [set(row.rewards) for row in space["rows"]] == [{"obedience", "cleanliness"}] * 2
