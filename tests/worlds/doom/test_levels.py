"""Levels made from a seed: plans that can be walked, textures that can be seen, splits, files and the engine."""

import hashlib
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.engine.engine import Engine
from worldcompass.worlds.doom.engine.feasible import sight
from worldcompass.worlds.doom.engine.maps import find_map
from worldcompass.worlds.doom.levels import palette, plan, splits, textures
from worldcompass.worlds.doom.levels.sprites import all_sprites
from worldcompass.worlds.doom.levels.styles import STYLES, TRAINING_STYLES, UNSEEN_STYLES
from worldcompass.worlds.doom.levels.wad import textures_of

EYES = 41  # map units over the floor
SOME = [level for family in splits.FAMILIES for level in splits.levels(family, 16)]
PAINTS = {
    paint
    for style in STYLES.values()
    for paint in (*style.walls, *style.floors, *style.ceilings, *style.outside, *style.grounds)
}


@pytest.fixture(scope="module")
def engine():
    with Engine(find_map("house_000"), depth=True) as game:
        game.reset(0)
        yield game


# Plans


def test_a_level_is_a_function_of_its_name():
    first, again = (splits.level("house", 5) for _ in range(2))
    assert first.wad() == again.wad() and plan.make_plan(first.seed) == first.plan
    assert first.wad() != splits.level("house", 13).wad(), "the same style, another plan"


@pytest.mark.golden
def test_the_levels_are_those_that_data_was_recorded_on():
    """Another sum needs another ``EDITION``: recordings and scenarios of levels fit no longer."""
    digest = hashlib.sha256(repr([level.plan for level in SOME]).encode())
    for level in (*splits.levels("house", 8), *splits.levels("strange", 2)):
        for name, image in (textures_of(level.plan, STYLES[level.style]) | all_sprites()).items():
            digest.update(name.encode() + image.tobytes())
    assert digest.hexdigest()[:16] == "7d2be0888f1048ec"


def test_every_room_can_be_walked_to_and_has_free_places():
    for level in SOME:
        assert level.plan.reachable() == set(range(len(level.plan.rooms))), level.name
        for room in level.plan.rooms:
            assert any(room.rect.contains(x, y) for x, y in level.places()), (level.name, room)


def test_a_step_that_is_too_high_cuts_a_room_off():
    house = splits.level("house", 0).plan
    high = tuple(replace(o, floor=o.floor + 60, top=o.top + 60) for o in house.openings)
    assert replace(house, openings=high).reachable() == {0}


def test_doorways_are_wide_and_high_enough_and_windows_are_no_way():
    kinds = set()
    for level in SOME:
        for opening in level.plan.openings:
            kinds.add(opening.kind)
            floors = [level.plan.rooms[n].floor for n in opening.rooms]
            if opening.kind == "door":
                assert max(opening.rect.size) >= 64
                assert opening.top - max(floors) >= 96 and abs(floors[0] - floors[1]) <= plan.STEP
            else:
                assert opening.floor - max(floors) > plan.STEP
    assert kinds == {"door", "window"}


def test_rooms_lie_apart_and_no_picture_hangs_twice_or_over_an_opening():
    for level in SOME:
        rooms, pictures = level.plan.rooms, level.plan.pictures
        assert not any(a.rect.meets(b.rect) for n, a in enumerate(rooms) for b in rooms[:n])
        assert len({p.number for p in pictures}) == len({(p.room, p.side, p.panel) for p in pictures})
        assert len(pictures) >= 2 * len(rooms) - 2
        for opening in level.plan.openings:
            for number in opening.rooms:
                side = plan.side_of(rooms[number], opening.rect)
                low, high = plan.span_on(rooms[number], side, opening.rect)
                panels = [p.panel * plan.PANEL for p in pictures if (p.room, p.side) == (number, side)]
                assert not [at for at in panels if low < at + plan.PANEL and at < high]


# Textures


def thin(image: np.ndarray, size: int) -> float:
    """Share of a repeating image that is finer than ``size`` in some direction."""
    tiled = np.tile(image, (3, 3))
    kept = np.zeros(tiled.shape, bool)
    for colour in np.unique(image):
        mask = (tiled == colour).astype(np.uint8)
        kept |= cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((size, size), np.uint8)).astype(bool)
    n = textures.SIZE
    return 1 - kept[n : 2 * n, n : 2 * n].mean()


def test_textures_have_no_detail_finer_than_six_units():
    """Corners of slanted shapes are all that an opening with a square of 6 units may take away."""
    found = {paint: thin(textures.draw(paint), 6) for paint in PAINTS}
    assert max(found.values()) < 0.04, max(found, key=found.get)
    assert thin(np.indices((128, 128)).sum(0) // 4 % 2, 6) > 0.9, "the measure sees fine stripes"


def test_pictures_differ_and_are_large():
    wall = textures.wall("plain/grey.8", "grey.2")
    pictures = [textures.with_picture(wall, number) for number in range(textures.PICTURES)]
    assert len({p.tobytes() for p in pictures}) == textures.PICTURES > 100
    assert all((p != wall).mean() > 0.3 for p in pictures)


def test_textures_are_opaque():
    assert not [paint for paint in PAINTS if palette.TRANSPARENT in textures.draw(paint)]


def test_a_shade_keeps_its_hue():
    for name in ("teal.4", "soft red.5", "amber.3"):
        darker = palette.shifted(palette.index(name), -1)
        assert darker == palette.index(f"{name[:-1]}{int(name[-1]) - 1}")
    assert palette.shifted(palette.index("red.0"), -1) == palette.index("red.0")
    assert len(palette.colours()) == 256 and len(palette.colormap()) == 34 * 256


# Splits


def test_splits_share_no_level_and_unseen_styles_are_in_no_other_family():
    every = [level for family in splits.FAMILIES for level in splits.levels(family)]
    assert len({level.seed for level in every}) == len({level.name for level in every}) == len(every)
    assert len({level.plan for level in SOME}) == len(SOME)
    for level in every:
        assert level.style in (UNSEEN_STYLES if level.family == "strange" else TRAINING_STYLES)
    assert not set(TRAINING_STYLES) & set(UNSEEN_STYLES) and len(UNSEEN_STYLES) >= 2
    assert {level.style for level in splits.levels("house", 8)} == set(TRAINING_STYLES)


def test_the_data_set_is_recorded_on_levels_and_keeps_the_splits_apart():
    shards = collect.plan(360_000, 0, None)
    families = {split: set() for split in collect.SPLITS}
    for shard in shards:
        families[shard.split].add(shard.doom_map.level.family)
    assert families == {
        "train": {"house"}, "heldout": {"house"}, "critic": {"house", "critic"}, "judge": {"house", "judge"},
        "unseen": {"unseen"}, "strange": {"strange"},
    }  # fmt: skip
    assert all(shard.number == 0 for shard in shards), "rather new levels than more of one"
    frames = collect.EPISODES_PER_SHARD * collect.EPISODE_FRAMES * len(shards)
    assert 0.9 < frames / 360_000 < 1.1
    assert {s.split for s in collect.plan(2000, 0, None)} == set(collect.SPLITS), "one shard of each at least"


def test_recordings_of_maps_are_not_continued_with_levels(tmp_path):
    card = {"version": collect.FORMAT.version, "seed": 0, "frames": 2000, "maps": None}
    (tmp_path / "dataset.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"holds a dataset made with .*, not .*levels, edition 1"):
        collect.collect(tmp_path, frames=2000)


def test_maps_that_are_named_replace_the_levels():
    shards = collect.plan(2000, 0, ["unseen_003", "my_way_home"])
    assert {(s.split, s.doom_map.name) for s in shards} == {
        ("unseen", "unseen_003"), *((split, "my_way_home") for split in collect.FURTHER)
    }  # fmt: skip


# The engine


def test_the_engine_shows_the_level_in_its_own_colours():
    house = find_map("house_001")
    with Engine(house, frame_size=(120, 160)) as game:
        frames = [game.reset(0, (x, z, 45.0)).frames_Fhw3[0] for x, z in house.places()[::200]]
    seen = {tuple(colour) for frame in frames for colour in frame.reshape(-1, 3).tolist()}
    assert len(seen) > 20 and seen <= set(map(tuple, palette.colours().tolist()))


def test_a_walk_stays_inside_at_the_height_that_the_plan_says(engine):
    house, rng = engine.map.level.plan, np.random.default_rng(1)
    moved = 0.0
    for _ in range(3):
        episode = collect.play_episode(engine, rng, collect.start_place(engine, rng, ()), 40)
        moved += np.hypot(*np.diff(episode.cameras_F5[:, [0, 2]], axis=0).T).sum()
        latents = episode.cameras_F5[:: collect.FRAMES_PER_LATENT]
        areas = house.raster[
            (latents[:, 2] // plan.CELL).astype(int), (latents[:, 0] // plan.CELL).astype(int)
        ]
        assert (areas >= 0).all()
        kinds = [house.areas[n].kind for n in areas]
        assert set(kinds) <= {"room", "door", "dais"}
        over = -latents[:, 1] - EYES - [house.areas[n].floor for n in areas]
        assert (abs(over) < 1).mean() > 0.8, (
            "the view rises smoothly, and the player's box touches other floors"
        )
        assert (collect.true_labels(episode.cameras_F5)[1:].numpy() == episode.commands_M[1:]).mean() > 0.9
    assert moved > 500


def test_an_episode_begins_where_it_was_asked_to(engine):
    house = engine.map.level
    for room in house.plan.rooms:
        x, z = next(p for p in house.places() if room.rect.contains(*p))
        camera = engine.reset(3, (x, z, -110.0)).cameras_F5[0]
        number = house.plan.raster[int(z) // plan.CELL, int(x) // plan.CELL]
        eyes = house.plan.areas[number].floor + EYES
        np.testing.assert_allclose(camera, [x, -eyes, z, -110, 0], atol=0.02)


def test_few_starts_stare_at_a_wall(engine):
    rng = np.random.default_rng(0)
    starts = [collect.start_place(engine, rng, ()) for _ in range(200)]
    near = [sight(*start, engine.walls_L4) < 100 for start in starts]
    assert np.mean(near) < 0.12
    anywhere = [sight(x, z, rng.uniform(-180, 180), engine.walls_L4) < 100 for x, z, _ in starts]
    assert np.mean(anywhere) > 2 * np.mean(near)
    rooms = {
        n for x, z, _ in starts for n, r in enumerate(engine.map.level.plan.rooms) if r.rect.contains(x, z)
    }
    assert len(rooms) == len(engine.map.level.plan.rooms)


def test_sight_ends_at_the_first_wall():
    walls = np.array([[-50, 100, 50, 100], [-50, 60, -10, 60], [-50, -30, 50, -30]], np.float32)
    assert sight(0, 0, 0, walls) == pytest.approx(100)
    assert sight(-20, 0, 0, walls) == pytest.approx(60)
    assert sight(0, 0, 180, walls) == pytest.approx(30)
    assert sight(0, 0, 90, walls) == np.inf


def test_things_count_as_walls(engine):
    thing = engine.map.level.plan.things[0]
    edges = engine.map.obstacles_L4()
    assert len(edges) == 4 * len(engine.map.level.plan.things)
    assert np.abs(edges[:4].mean(0) - [thing.x, thing.y] * 2).max() < 1e-3
    assert (engine.walls_L4[-len(edges) :] == edges).all()


# Files and the command line


def test_wad_files_are_written_and_a_map_of_a_user_s_file_is_played(engine, tmp_path, capsys):
    assert cli.main(["doom", "levels", "--out", str(tmp_path), "--count", "1"]) == 0
    path = tmp_path / "house_000.wad"
    assert path.read_bytes() == splits.level("house", 0).wad() and "1 levels" in capsys.readouterr().out
    own = find_map(f"{path}:MAP01")
    assert own.slug.endswith("house_000.wad_MAP01") and "/" not in own.slug
    place = (*engine.map.places()[0], 30.0)
    with Engine(own) as game:
        np.testing.assert_array_equal(game.reset(0, place).frames_Fhw3, engine.reset(0, place).frames_Fhw3)


def test_the_sheet_shows_plan_and_views(tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert cli.main(["doom", "levels", "--show", str(path), "--split", "strange", "--count", "1"]) == 0
    picture = cv2.imread(str(path))
    assert picture.shape[1] > picture.shape[0] > 400 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "nothing to do: give --show FILE.png, --out FOLDER, or both"),
        (["--out", "x", "--split", "attic"], "unknown --split 'attic': expected one of house, critic,"),
        (["--out", "x", "--count", "1001"], "a split has at most 1000 levels"),
        (["--show", "x.gif"], "expected a name that ends with .png"),
    ],
)
def test_wrong_options_are_one_sentence(words, sentence, capsys):
    assert cli.main(["doom", "levels", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_wrong_maps_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="unknown level 'house_7': expected house_000 to house_999"):
        find_map("house_7")
    with pytest.raises(UserError, match=r"there is no WAD file gone\.wad: expected PATH\.wad:MAP"):
        find_map("gone.wad:MAP01")
    path = tmp_path / "notes.wad"
    path.write_text("not a game")
    with pytest.raises(UserError, match="is not a WAD file: it begins with b'not '"):
        Engine(find_map(f"{path}:MAP01"))
