"""Who may import whom: types, geometry <- world <- rollout, rewards <- objective ... <- train <- the rest."""

import ast
from pathlib import Path

import pytest

import worldcompass

ROOT = Path(worldcompass.__file__).parent

RANKS = {
    "errors": 0,
    "types": 0,
    "geometry": 0,
    "distributed": 1,
    "world": 1,
    "rollout": 2,
    "rewards": 2,
    "rewards.critic": 2,
    "advantages": 3,
    "balance": 3,
    "objective": 3,
    "optim": 3,
    "policy": 3,
    "log": 3,
    "checkpoint": 3,
    "shards": 3,
    "charts": 3,
    "interrupt": 3,
    "trackers": 3,
    "video": 3,
    "verdicts": 3,
    "selection": 4,
    "vitals": 4,
    "held_out": 4,
    "doctor.statistics": 4,
    "doctor.record": 4,
    "doctor.reading": 4,
    "doctor.signal_checks": 4,
    "doctor.update_checks": 4,
    "doctor.outcome_checks": 4,
    "doctor.checks": 4,
    "doctor.verdict": 4,
    "doctor.guard": 4,
    "curriculum": 5,
    "resume": 5,
    "inputs": 5,
    "train": 5,
}
MAX_LINES = 500


def imports(path):
    """Modules of the package that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module == "worldcompass":
                names = [f"worldcompass.{alias.name}" for alias in node.names]
        found |= {name.removeprefix("worldcompass.") for name in names if name.startswith("worldcompass.")}
    return found


def file_of(module):
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("module", RANKS)
def test_the_core_imports_only_what_lies_below_it(module):
    for other in imports(file_of(module)):
        assert other in RANKS, f"{module} imports {other}, which is no part of the core"
        assert RANKS[other] <= RANKS[module], f"{module} imports {other}, which lies above it"


def test_types_need_no_other_module():
    assert imports(file_of("types")) == set()


@pytest.mark.parametrize("module", RANKS)
def test_no_file_of_the_core_exceeds_the_line_limit(module):
    assert len(file_of(module).read_text().splitlines()) <= MAX_LINES


def test_adapters_do_not_import_adapters_and_critics_do_not_import_worlds():
    for path in sorted((ROOT / "worlds").rglob("*.py")):
        own = path.relative_to(ROOT / "worlds").parts[0].removesuffix(".py")
        others = {m for m in imports(path) if m.startswith("worlds.") and m.split(".")[1] != own}
        assert not others, f"{path.name} imports {others}"
        assert "train" not in imports(path), path.name
    for path in sorted((ROOT / "rewards").rglob("*.py")):
        assert not {m for m in imports(path) if m.split(".")[0] in ("worlds", "train")}, path.name


def test_ray_is_imported_in_one_place_and_only_when_a_critic_asks_for_it():
    def of_ray(tree):
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [
            (node, name)
            for node in nodes
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
        ]
        return [node for node, name in names if name.split(".")[0] == "ray"]

    trees = {path: ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
    assert [path.name for path, tree in trees.items() if of_ray(tree)] == ["remote.py"]
    top_level = trees[ROOT / "rewards" / "remote.py"].body
    assert not {id(node) for node in top_level} & {id(n) for node in top_level for n in of_ray(node)}
