"""Who may import whom: a list of the package's rooms from the ground up; an import may only go down."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from sources import ROOT, parsed

# From the ground up. Rooms of one row do not know each other. A room is a module of the root, a folder, or a
# folder of ``worlds``; the list must name all of them.
LAYERS = (
    ("errors", "settings", "version", "statistics", "ways", "passes"),
    ("devices",),
    ("types", "parallel"),
    ("runs",),
    ("media",),
    ("geometry", "critic", "noise", "seeding"),
    ("actions",),
    ("controls",),
    ("world",),
    ("guidance",),
    ("rollout",),
    ("reachable",),
    ("toy", "testing", "walk", "evaluate", "recordings"),
    ("doctor",),
    ("training", "env"),
    ("rewards", "judging"),
    ("cost", "report", "audit", "serving"),
    ("player", "ablation"),
    ("worlds.trajectories", "worlds.small"),
    ("worlds.open",),
    (
        "worlds.doom",
        "worlds.hands",
        "worlds.worldplay",
        "worlds.causal_wan",
        "worlds.waypoint",
        "worlds.nano",
    ),
    ("recipes",),
    ("api",),
    ("commands",),
    ("cli",),
    ("__init__", "__main__"),
)
ABOVE_WORLDS = ("recipes", "api", "commands")  # the only rooms that may know a world
# Rooms below the worlds, and the worlds that may know them.
KITS = {
    "worlds.trajectories": (
        "worlds.open",
        "worlds.doom",
        "worlds.hands",
        "worlds.worldplay",
        "worlds.causal_wan",
        "worlds.waypoint",
        "worlds.nano",
    ),
    "worlds.small": ("worlds.doom", "worlds.hands"),
    "worlds.open": ("worlds.worldplay", "worlds.causal_wan", "worlds.waypoint", "worlds.nano"),
}
NAMED = re.compile(r"\bworlds\.(\w+)")
"""A world in a string, such as ``worlds.doom.world``."""
MAX_LINES = 500


def name_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "worlds" and len(parts) > 1 else parts[0]


@cache
def parts_of(path: Path) -> tuple[list[ast.Import | ast.ImportFrom], list[str]]:
    """Imports of a file, and its strings with docstrings."""
    found, strings = [], []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
    return found, strings


def imports_of(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return parts_of(path)[0]


def imports(path: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports, wherever in the file."""
    found = set()
    for node in imports_of(path):
        if isinstance(node, ast.Import):
            found |= {
                a.name.removeprefix("worldcompass.") for a in node.names if a.name.startswith("worldcompass.")
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "worldcompass":
            assert node.level == 0, f"{path}: relative import"
            base = (node.module or "").removeprefix("worldcompass").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.add(inner if inner in modules else base or "__init__")
    return found


@cache
def graph(root: Path = ROOT) -> dict[str, set[str]]:
    files = {name_of(path, root): path for path in sorted(root.rglob("*.py"))}
    return {module: imports(path, set(files)) - {module} for module, path in files.items()}


def violations(modules: dict[str, set[str]]) -> list[str]:
    """One sentence for every import that does not go down, or that names a world where none may be known."""
    row_of = {room: row for row, rooms in enumerate(LAYERS) for room in rooms}
    found = []
    for module, others in modules.items():
        for other in sorted(others):
            here, there = room_of(module), room_of(other)
            if here == there or there == "worlds":
                continue
            if row_of[there] >= row_of[here]:
                found.append(f"{module} imports {other}, which is not below it")
            elif there.startswith("worlds.") and here not in (allowed := ABOVE_WORLDS + KITS.get(there, ())):
                found.append(f"{module} imports {other}: only {', '.join(allowed)} may know it")
    return found


def worlds_in_strings(path: Path) -> set[str]:
    """Rooms of worlds that a file's strings name, docstrings included."""
    return {f"worlds.{name}" for text in parts_of(path)[1] for name in NAMED.findall(text)}


def named_too_low(module: str, path: Path) -> list[str]:
    """One sentence for every world in a string of a module that may not know it."""
    here = room_of(module)
    known = {there: ("__init__", *ABOVE_WORLDS, *KITS.get(there, ())) for there in worlds_in_strings(path)}
    return [
        f"{module} names {there} in a string: only {', '.join(allowed)} may know it"
        for there, allowed in sorted(known.items())
        if there != here and here not in allowed
    ]


def circles(modules: dict[str, set[str]]) -> list[list[str]]:
    """Chains of modules that import each other round in a circle."""
    done: set[str] = set()
    found = []

    def visit(module: str, chain: list[str]) -> None:
        if module in chain:
            found.append([*chain[chain.index(module) :], module])
        elif module not in done:
            for other in sorted(modules.get(module, ())):
                visit(other, [*chain, module])
            done.add(module)

    for module in sorted(modules):
        visit(module, [])
    return found


def test_every_room_has_its_place():
    rooms = {room_of(module) for module in graph()} - {"worlds"}
    assert rooms == {room for row in LAYERS for room in row}


def test_imports_only_go_down():
    assert not violations(graph())


def test_strings_name_worlds_only_where_they_may_be_known():
    assert not [line for path in ROOT.rglob("*.py") for line in named_too_low(name_of(path, ROOT), path)]


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        (
            "rewards/catalogue.py",
            '"worlds.doom.rewards.quality:VisualQuality"',
            "catalogue names worlds.doom in a",
        ),
        (
            "worlds/hands/world.py",
            'def f():\n    """See ``worlds.doom.world``."""',
            "world names worlds.doom in a",
        ),
    ],
)
def test_a_planted_name_of_a_world_is_found(file, line, words, tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text((ROOT / file).read_text() + f"\n{line}\n")
    (sentence,) = named_too_low(name_of(ROOT / file, ROOT), planted)
    assert words in sentence


def test_modules_import_each_other_in_no_circle():
    assert not circles(graph())


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        (
            "training/objective.py",
            "from worldcompass.commands import train",
            "objective imports commands.train",
        ),
        ("types.py", "from worldcompass.world import WorldSpec", "types imports world"),
        ("rewards/cycle.py", "import worldcompass.worlds.doom.world", "rewards.cycle imports worlds.doom"),
        (
            "worlds/worldplay/world.py",
            "from worldcompass.worlds.doom import world",
            "worldplay.world imports",
        ),
        ("worlds/small/data.py", "from worldcompass.worlds.doom import world", "data imports worlds.doom"),
        ("worlds/worldplay/world.py", "from worldcompass.worlds.small import data", "imports worlds.small"),
        ("player/panes.py", "def late():\n    from worldcompass.worlds.doom import world", "panes imports"),
    ],
)
def test_a_planted_upward_import_is_named(file, line, words, tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text((ROOT / file).read_text() + f"\n{line}\n")
    name, modules = name_of(ROOT / file, ROOT), graph()
    (sentence,) = violations({**modules, name: imports(planted, set(modules)) - {name}})
    assert words in sentence


def test_a_planted_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]


def test_no_file_exceeds_the_line_limit():
    lines = {name_of(path, ROOT): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}


def test_ray_is_imported_in_one_place_and_only_when_a_critic_asks_for_it():
    def of_ray(path):
        return [
            node
            for node in imports_of(path)
            for name in (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            if name.split(".")[0] == "ray"
        ]

    files = [path for path in ROOT.rglob("*.py") if of_ray(path)]
    assert [path.name for path in files] == ["ray_actors.py"]
    assert all(node.col_offset > 0 for node in of_ray(files[0])), "inside a function"
