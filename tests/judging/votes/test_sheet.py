"""The design of a blind study is drawn from its seed, balanced, and checked against its key."""

import dataclasses
import json
from collections import Counter

import pytest
from toy_votes import made, toy_sheet, toy_subjects

from worldcompass.errors import UserError
from worldcompass.judging.votes.controls import CONTROLS
from worldcompass.judging.votes.make import Kinds
from worldcompass.judging.votes.sheet import Sheet, SheetFolder, draw_sheet, read_key

STRIPS = Kinds(videos=False)


def test_the_same_seed_draws_the_same_sheet_and_another_seed_another_one():
    assert toy_sheet(seed=3) == toy_sheet(seed=3)
    assert toy_sheet(seed=3).id != toy_sheet(seed=4).id
    orders = [[(p.scenario, p.good, p.control) for p in toy_sheet(seed=s).pairs] for s in (3, 4)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pairs", [8, 9, 12, 24, 33])
def test_sides_are_balanced_among_compared_pairs_and_among_controls_that_exclude(pairs, seed):
    sheet = toy_sheet(pairs, seed)
    strict = [p for p in sheet.controls if CONTROLS[p.control].excludes]
    for part in (sheet.compared, strict):
        first = Counter(pair.good for pair in part)
        assert abs(first["A"] - first["B"]) <= 1, part


def test_a_third_or_so_of_the_pairs_are_controls_of_every_kind():
    sheet = toy_sheet(24)
    assert [pair.number for pair in sheet.pairs] == list(range(1, 25))
    assert len(sheet.controls) == 7 and {p.control for p in sheet.controls} == set(CONTROLS)
    assert {p.control for p in toy_sheet(12).controls} == {"engine", "sharpened", "grainy", "same"}


def test_a_world_without_an_engine_has_no_control_with_it():
    assert {p.control for p in toy_sheet(24, engine=False).controls} == set(CONTROLS) - {"engine"}


def test_a_world_without_an_engine_cannot_show_it():
    with pytest.raises(UserError, match="lack the engine's own videos: leave out --engine"):
        toy_sheet(24, engine=False, shows_engine=True)
    shown = toy_sheet(24, shows_engine=True)
    assert Sheet.from_json(json.loads(json.dumps(shown.to_json()))) == shown


def test_no_scenario_is_shown_twice_while_there_are_enough():
    names = [pair.scenario for pair in toy_sheet(24, scenarios=24).pairs]
    assert len(set(names)) == 24
    few = toy_sheet(24, scenarios=17)
    assert len({p.scenario for p in few.compared}) == 17
    assert {p.noise for p in few.compared}.isdisjoint({p.noise for p in few.controls})


def test_too_few_pairs_and_too_few_scenarios_are_refused_with_the_number_that_works():
    with pytest.raises(UserError, match="--pairs 8 or more"):
        toy_sheet(5)
    assert len(toy_sheet(8).compared) == 6
    with pytest.raises(UserError, match="--pairs 29 or fewer") as why:
        toy_sheet(60, scenarios=20)
    assert "there are 20" in str(why.value)
    assert len(toy_sheet(29, scenarios=20).compared) == 20


def test_the_key_survives_its_file_and_its_id_ignores_where_weights_lie():
    sheet = toy_sheet()
    assert Sheet.from_json(json.loads(json.dumps(sheet.to_json()))) == sheet
    moved = dataclasses.replace(sheet, titles={"base": "elsewhere", "trained": "elsewhere"})
    assert moved.id == sheet.id
    other = {**sheet.weights, "trained": "0" * 64}
    assert dataclasses.replace(sheet, weights=other).id != sheet.id


def test_a_key_that_does_not_belong_to_the_pictures_is_refused(tmp_path):
    one, _ = made(tmp_path / "one", 8, seed=0, kinds=STRIPS)
    two, _ = made(tmp_path / "two", 8, seed=1, kinds=STRIPS)
    assert read_key(one).seed == 0
    one.key.write_bytes(two.key.read_bytes())
    with pytest.raises(UserError, match=r"does not belong to this sheet: .*pair_\d\d\.\w+ is another file"):
        read_key(one)
    (two.sheet / "pair_02.png").unlink()
    with pytest.raises(UserError, match=r"pair_02\.png is missing"):
        read_key(two)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("pairs"), "'pairs'"),
        (lambda data: data.update(schema=9), "schema is 9"),
        (lambda data: data["pairs"][0].update(good="C"), "good 'C'"),
        (lambda data: data["pairs"][0].update(control="sepia"), "sepia"),
        (lambda data: data.update(pairs=[3]), "not the key"),
        (lambda data: data.update(files={}), "unfinished sheet"),
    ],
)
def test_a_malformed_key_is_one_sentence(change, words, tmp_path):
    data = {**toy_sheet().to_json(), "files": {"pair_01.png": "0" * 64}}
    change(data)
    folder = SheetFolder(tmp_path)
    folder.key.parent.mkdir(parents=True)
    folder.key.write_text(json.dumps(data))
    with pytest.raises(UserError, match=words):
        read_key(folder)


def test_a_folder_without_a_sheet_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no vote sheet"):
        read_key(SheetFolder(tmp_path))


def test_the_order_of_scenarios_does_not_follow_their_kind():
    sheet = draw_sheet(toy_subjects(), 24, 0)
    assert [p.scenario for p in sheet.pairs] != sorted(p.scenario for p in sheet.pairs)
    runs = [bool(p.control) for p in sheet.pairs]
    assert runs != sorted(runs) and runs != sorted(runs, reverse=True)
