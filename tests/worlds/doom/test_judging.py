"""The judge's scenarios in the embedded world: even over maps, apart from the twin's, stored and resumed."""

import pytest
import torch

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.judging import court as filming
from worldcompass.judging.court import sources_of, stored_sources
from worldcompass.worlds.doom import judging
from worldcompass.worlds.doom.engine.maps import TRAINING, UNSEEN
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans
from worldcompass.worlds.doom.judging import MOST, court, place_of, scenes
from worldcompass.worlds.doom.world import SPEC, shipped_weights

LATENTS = 10  # 37 frames
COUNT = 8  # scenarios, the fewest
HOUSE, STRANGE = TRAINING[:2], UNSEEN[:2]


@pytest.fixture(scope="module")
def found():
    """The scenarios of a game with four maps."""
    maps = {m.name for m in (*HOUSE, *STRANGE)}
    frozen = [plan for plan in evaluation_plans() if plan.map_name in maps]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "TRAINING", HOUSE)
        patch.setattr(judging, "UNSEEN", STRANGE)
        patch.setattr(judging, "evaluation_plans", lambda: frozen)
        return {role: scenes(role, COUNT, LATENTS) for role in ("judge", "twin")}


def test_scenarios_spread_over_all_maps_and_other_episodes_match_them_row_by_row(found):
    judge = found["judge"]
    assert {judge.regions.count(m.name) for m in (*HOUSE, *STRANGE)} == {2} and len(judge.regions) == COUNT
    assert [s.id.split("/")[1] for s in judge.others] == judge.regions
    assert len({s.id for s in (*judge.scenarios, *judge.others)}) == 2 * COUNT


def test_the_twin_sees_other_starts_on_the_training_maps_alone(found):
    assert set(found["twin"].regions) == {m.name for m in HOUSE}

    def starts(of):
        return {s.image_3hw.numpy().tobytes() for s in (*of.scenarios, *of.others)}

    drawn = starts(found["twin"]) - starts(found["judge"])
    assert len(drawn) > COUNT  # maps with one start show it to both
    assert not {s.id for s in found["twin"].scenarios} & {s.id for s in found["judge"].scenarios}


def test_starts_near_each_other_are_one_place():
    plans = {p.id: place_of(p) for p in evaluation_plans()}
    assert len(set(plans.values())) < len(plans)
    assert all(place.startswith(id_.split("/")[1]) for id_, place in plans.items())


def test_an_impossible_number_of_scenarios_is_refused():
    with pytest.raises(UserError, match=f"8 to {MOST['judge']} scenarios, got 500"):
        scenes("judge", 500)


@pytest.fixture
def filmed(found, monkeypatch):
    """Seeds of all films, which show the truth at once; -1 stands for the autoencoder's."""
    seeds = []

    def film(world, scenarios, seed, on_video, batch):
        seeds.append(seed)
        return torch.stack([s.truth.frames_F3hw for s in scenarios])

    monkeypatch.setattr(judging, "scenes", lambda role, count: found[role])
    for name in ("imagine", "step_after_truth"):
        monkeypatch.setattr(filming, name, film)
    monkeypatch.setattr(filming, "through_autoencoder", lambda w, s, **more: film(w, s, -1, **more))
    return seeds


def test_a_second_run_takes_engine_and_base_from_the_first_and_films_itself_alone(filmed, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    sources_of(court(), [shipped_weights()], first, COUNT, 0, "cpu")
    filmed.clear()
    found = sources_of(court(), [shipped_weights()], second, COUNT, 0, "cpu", reuse=first)
    assert filmed == [0, 0]  # the trained model's videos and its single chunks
    assert found.engine_SF3hw.equal(stored_sources(first, SPEC).engine_SF3hw)
    with pytest.raises(UserError, match="no judge with the same base"):
        sources_of(court(), [shipped_weights()], tmp_path / "third", COUNT, 1, "cpu", reuse=first)
    with pytest.raises(UserError, match="no judge with the same base"):
        sources_of(
            court(), [shipped_weights()], tmp_path / "fourth", COUNT, 0, "cpu", reuse=tmp_path / "nowhere"
        )


def test_videos_are_stored_and_the_same_command_reads_them(filmed, tmp_path):
    out = tmp_path / "judge"
    first = sources_of(court(), [shipped_weights()], out, COUNT, 0, "cpu")
    assert filmed == [-1, 0, 0, 0, 0]
    again = sources_of(court(), [shipped_weights()], out, COUNT, 0, "cpu")
    assert len(filmed) == 5 and again.flat("trained").equal(first.flat("trained"))
    (out / "trained_0.safetensors").unlink()
    with pytest.raises(UserError, match="no complete judge"):
        stored_sources(out, SPEC)
    sources_of(court(), [shipped_weights()], out, COUNT, 0, "cpu")
    assert len(filmed) == 6
    with pytest.raises(UserError, match="other seed: choose another --out"):
        sources_of(court(), [shipped_weights()], out, COUNT, 1, "cpu")


def test_the_command_refuses_a_run_that_is_not_there(capsys, tmp_path):
    assert cli.main(["judge", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
