"""Kill a training run again and again, damage what it leaves behind, and see whether anything is ever lost.

``make soak`` trains the toy world in real processes and kills each with SIGKILL: at a chosen moment of the rollout,
the rewards, the update, a checkpoint or the log, or at a random time. In between the newest checkpoint is truncated
or has bits flipped, or the disk is full. Every run must come to the same metrics and weights, bit by bit, as one
that nobody disturbed. A damaged newest checkpoint must be named and the one before it used; a full disk must be
said in a sentence, and so must a critic's process that is killed in the middle of a run. Anything else is a lost
state or an unclean end, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from faults import EVENTS_PER_STEP, STAGES, finish, outcome, serve_obedience, start, words_of

from worldcompass.runs.folder import RunFolder

STEPS = 40  # of one run
GO_ON = ("--resume", "--set", f"config.steps={STEPS}", "--set", "config.save_every=2")
LIFE_SECONDS = (0.05, 0.6)  # of a process that is killed from outside, at least and at most
DISK = 4 << 20  # bytes of the small disk
FULL_LEAVES = 40_000  # bytes that a full disk still has, at most
DAMAGE = ("truncated", "flipped")
ENDS = ("full disk", "vanished critic")  # after which a run may stop with a sentence
INJURIES = ("moment", "moment", "time", "time", *DAMAGE, *ENDS)


@dataclass
class Soak:
    """Runs, what was done to them, and what came of it."""

    folder: Path
    disk: Path | None
    """A small file system of our own, or None: then a full disk is a limit on the size of files."""
    chance: random.Random
    expected: tuple
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    damaged: dict[Path, int] = field(default_factory=dict)
    """Checkpoints that were damaged, and when: they stay so until they are written again."""
    wounded: Path | None = None
    """The one of them that no process has met yet."""

    def run_until(self, kills: int) -> None:
        """Whole runs, disturbed without pause until there were so many kills."""
        number = 0
        while self.counts["kills"] < kills:
            number += 1
            out = self._new_run(number)
            can_go_on = True
            while can_go_on and self.counts["kills"] < kills and not (out / "final.safetensors").exists():
                can_go_on = self._disturb(out, self.chance.choice(INJURIES))
            self._end(out)
            print(
                f"run {number}: {self.counts['kills']} kills so far, {len(self.problems)} problems",
                flush=True,
            )

    def _new_run(self, number: int) -> Path:
        out = self.folder / f"run-{number}"
        if self.disk is not None:
            (self.disk / out.name).mkdir()
            out.symlink_to(self.disk / out.name)
        return out

    def _disturb(self, out: Path, injury: str) -> bool:
        """One process and what happens to it; whether the next one can go on."""
        if injury in DAMAGE and not self._damage(out, injury):
            return True
        self.counts[injury] += 1
        said, done = len(self._words(out)), self._steps_done(out)
        if injury == "moment":
            stage = self.chance.choice(STAGES)
            code = finish(
                start(out, *GO_ON, fuse=f"{stage}:{self.chance.randint(1, 8 * EVENTS_PER_STEP[stage])}")
            )
        elif injury == "vanished critic":
            code = self._without_critic(out)
        else:
            with self._full_disk() if injury == "full disk" else contextlib.nullcontext() as limit:
                process = start(out, *GO_ON, file_limit=limit)
                process.join(self.chance.uniform(*LIFE_SECONDS))
                process.kill()
                code = finish(process)
        self.counts["kills"] += code == -9
        return self._judge(out, injury, code, self._words(out)[said:], self._steps_done(out) > done)

    def _without_critic(self, out: Path) -> int:
        """A process whose critic, a process of its own, is killed while it trains."""
        critic, address = serve_obedience()
        process = start(out, *GO_ON, critic=address)
        process.join(self.chance.uniform(*LIFE_SECONDS))
        critic.kill()
        critic.join()
        return finish(process)

    def _judge(self, out: Path, injury: str, code: int, words: str, went_on: bool) -> bool:
        """Was that a clean end, and was damage noticed? Whether the next process can go on."""
        clean = code in (-9, 0) or (code == 2 and injury in ENDS)
        if not clean or "Traceback" in words:
            last = words.strip().splitlines()[-1] if words.strip() else "no word"
            self._problem(f"{out.name}, {injury}: exit code {code}, {last}")
        if injury in ENDS and code == 2:
            return True  # it ended for want of something, which says nothing about what was damaged before
        return self._gave_up(code, words, went_on) or clean or injury in ENDS

    def _gave_up(self, code: int, words: str, went_on: bool) -> bool:
        """Did the run end at what was damaged? Then that is a lost state, and is removed. It must be named."""
        wounded, named = self.wounded, self.wounded is not None and self.wounded.name in words
        if wounded is None or not (named or went_on):
            return False
        self.wounded = None
        if not named:
            self._problem(f"{wounded} was damaged and used without a word")
        if went_on or code != 2:
            return False
        self.counts["states lost"] += 1
        shutil.rmtree(wounded)
        return True

    def _problem(self, what: str) -> None:
        self.problems.append(what)
        print(what, flush=True)

    def _damage(self, out: Path, kind: str) -> bool:
        """Damage one file of the newest checkpoint, when there is a whole one before it to fall back to."""
        saved = sorted(RunFolder(out).checkpoints.glob("step_*"))[-2:]
        if len(saved) < 2 or any(self.damaged.get(folder) == _written(folder) for folder in saved):
            return False
        file = self.chance.choice(sorted(path for path in saved[-1].rglob("*") if path.is_file()))
        content = bytearray(file.read_bytes())
        if kind == "truncated":
            content = content[: self.chance.randrange(len(content))]
        else:
            for _ in range(self.chance.randint(1, 8)):
                content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
        file.write_bytes(content)
        self.wounded, self.damaged[saved[-1]] = saved[-1], _written(saved[-1])
        return True

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[int | None]:
        """Inside, the small disk has hardly any space; where there is none, a limit for the size of files."""
        leaves = self.chance.randrange(FULL_LEAVES)
        if self.disk is None:
            yield leaves
            return
        filler = self.disk / "filler"
        filler.write_bytes(bytes(max(shutil.disk_usage(self.disk).free - leaves, 0)))
        yield None
        filler.unlink()

    def _end(self, out: Path) -> None:
        """Let a run end in peace and compare it."""
        can_go_on = True
        while can_go_on and not (out / "final.safetensors").exists():
            said, done = len(self._words(out)), self._steps_done(out)
            code = finish(start(out, *GO_ON))
            can_go_on = self._judge(
                out, "in peace", code, self._words(out)[said:], self._steps_done(out) > done
            )
        if not (out / "final.safetensors").exists() or outcome(out) != self.expected:
            self.counts["states lost"] += 1
            self._problem(f"{out.name} did not come to the metrics and weights of the undisturbed run")
        self.counts["steps repeated"] += max(self._steps_done(out) - STEPS, 0)
        self.counts["runs"] += 1

    def _words(self, out: Path) -> str:
        return words_of(out).read_text() if words_of(out).exists() else ""

    def _steps_done(self, out: Path) -> int:
        """By all processes of a run together, those done again included."""
        path = out / "steps_done"
        return path.read_text().count("\n") if path.exists() else 0


def _written(checkpoint: Path) -> int:
    """When a checkpoint was last written, or damaged."""
    return max(path.stat().st_mtime_ns for path in checkpoint.rglob("*"))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of ``DISK`` bytes where this process may mount one, else None."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40, help="at least so many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "disk") as disk:
        straight = Path(folder) / "straight"
        if finish(start(straight, *GO_ON)) != 0:
            raise SystemExit(f"the undisturbed run fails: {words_of(straight).read_text()}")
        soak = Soak(Path(folder), disk, random.Random(args.seed), outcome(straight))
        soak.run_until(args.kills)
    counts = soak.counts
    print(f"seed {args.seed}, {time.monotonic() - begun:.0f} s, {counts['runs']} runs of {STEPS} steps")
    print(f"kills survived: {counts['kills']}")
    print(f"checkpoints damaged: {counts['truncated']} truncated, {counts['flipped']} with flipped bits")
    print(f"full disks: {counts['full disk']} ({'a tmpfs' if disk else 'a limit on the size of files'})")
    print(f"vanished reward processes: {counts['vanished critic']}")
    print(f"steps repeated: {counts['steps repeated']}")
    print(f"unclean ends: {len(soak.problems)}")
    print(f"states lost: {counts['states lost']}")
    return 1 if soak.problems or counts["states lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
