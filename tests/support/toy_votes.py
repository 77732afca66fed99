"""A small study of the toy world, and raters of known taste."""

import hashlib

import torch

from worldcompass.evaluate import imagine_all
from worldcompass.judging.votes.controls import CONTROLS
from worldcompass.judging.votes.form import Answer
from worldcompass.judging.votes.make import Kinds, make_sheet
from worldcompass.judging.votes.sheet import SheetFolder, draw_sheet
from worldcompass.judging.votes.subjects import Subjects
from worldcompass.seeding import generator_for
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.types import Scenario, Truth

LATENTS = 4
SPEC = ToyWorld().spec


def toy_subjects(scenarios=40, engine=True, imagined=None):
    """Base and trained toy worlds; names of imagined models are appended to ``imagined``."""
    worlds = {"base": ToyWorld(0), "trained": ToyWorld(1)}
    known = {s.id: with_truth(s) for s in toy_scenarios(scenarios, LATENTS)}

    def imagine(name, asked, noise):
        if imagined is not None:
            imagined.append((name, len(asked)))
        return imagine_all(worlds[name], asked, noise)

    return Subjects(
        spec=SPEC,
        scenario_ids=tuple(known),
        subject="trained",
        rival="base",
        titles={"base": "the base", "trained": "runs/toy"},
        weights={name: hashlib.sha256(name.encode()).hexdigest() for name in worlds},
        num_frames=SPEC.num_frames(0, LATENTS),
        prepare=lambda ids: [known[i] for i in ids],
        imagine=imagine,
        fingerprint=lambda found: ",".join(s.id for s in found),
        engine=engine,
    )


def with_truth(scenario):
    frames = torch.randint(
        0, 255, (SPEC.num_frames(0, LATENTS), 3, *SPEC.frame_size), generator=generator_for(scenario.id)
    ).byte()
    truth = Truth(frames, scenario.actions)
    return Scenario(scenario.id, scenario.actions, frames[0], truth=truth)


def toy_sheet(pairs=24, seed=0, shows_engine=False, **options):
    return draw_sheet(toy_subjects(**options), pairs, seed, shows_engine)


def made(path, pairs=10, seed=0, kinds=Kinds(), shows_engine=False, **options):  # noqa: B008
    """The folder and the key of a finished sheet."""
    subjects = toy_subjects(**options)
    folder = SheetFolder(path)
    return folder, make_sheet(folder, draw_sheet(subjects, pairs, seed, shows_engine), subjects, kinds)


def honest(sheet, compared=lambda pair: "tie"):
    """A rater who answers every control right, and pairs that count by ``compared``: good, bad or tie."""
    return [answers(pair, right(pair) if pair.control else compared(pair)) for pair in sheet.pairs]


def right(pair):
    return "tie" if CONTROLS[pair.control].same else "good"


def answers(pair, choice, grades=(None, None)):
    """The same choice for every question; grades are of the good and of the bad side."""
    letter = choice if choice == "tie" else pair.good if choice == "good" else other(pair.good)
    return Answer(
        pair.number, letter, letter, letter, *(grades if pair.good == "A" else grades[::-1]), letter
    )


def other(letter):
    return "B" if letter == "A" else "A"


def write_answers(path, given, sheet_id=None, engine=False):
    """An answered form as a file."""
    rows = ["pair,looks,place,overall,grade_A,grade_B,sheet" + ",commands" * engine]
    for a in given:
        grades = ["" if g is None else str(g) for g in (a.grade_A, a.grade_B)]
        asked = [a.commands] * engine
        rows.append(",".join([str(a.pair), a.looks, a.place, a.overall, *grades, sheet_id or "", *asked]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return path
