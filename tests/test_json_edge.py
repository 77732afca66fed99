"""Untyped tables by name stay at the edge to JSON and to other libraries: between modules go frozen types."""

import ast
from collections import Counter

import pytest
from sources import ROOT, parsed

UNTYPED = ("dict[str, Any]", "Mapping[str, Any]")
TABLES = tuple(kind.partition("[")[0] for kind in UNTYPED)
# Methods that turn a value into JSON, or make one of it.
WRITERS_AND_READERS = ("to_json", "as_json", "from_json", "from_keys")
# Everything else, by module, with the reason.
EDGES = {
    # JSON files: the parser itself, what checks an entry, and what writes a table as it is.
    "runs/atomic.py": ("finite",),
    "runs/checkpoint.py": (
        *("_object", "_finish", "_checksum"),
        *("CheckpointState", "pack_optimizer", "unpack_optimizer"),  # of PyTorch's optimisers
    ),
    "runs/folder.py": ("claim",),
    "runs/metrics.py": ("_object", "_number", "_chunk", "_flat", "append_row", "write_rows", "read_object"),
    "runs/results.py": ("_object",),
    "worlds/hands/policies/agreement.py": ("_out", "_in"),
    "worlds/small/data.py": ("claim",),
    # Configurations and recordings of open checkpoints, as their makers write them.
    "worlds/causal_wan/config.py": ("read_config",),
    "worlds/causal_wan/recorded_play.py": ("_numbers",),
    "worlds/nano/checkpoint.py": ("_network", "_value"),
    "worlds/open/yaml_files.py": ("read_yaml",),
    "worlds/waypoint/config.py": ("_built",),
    "worlds/waypoint/recordings.py": ("_values",),
    "worlds/worldplay/config.py": ("_read",),
    # Bodies of HTTP answers, messages of WebSockets and of chats.
    "player/ballot.py": ("Ballot.describe", "routes.next_pair"),
    "player/session.py": ("Send.__init__", "Send.text"),
    "rewards/judge_model.py": ("",),
    "rewards/wire.py": ("pack_scores",),
    "serving/scoring.py": ("identity", "application.health"),
    # Other libraries' own types: Gymnasium's info and options, PyTorch's optimisers, Ray's options and results.
    "env.py": (
        *("WorldEnv", "WorldEnv.reset", "WorldEnv.step", "WorldEnv._info"),
        *("WorldVectorEnv", "WorldVectorEnv.reset", "WorldVectorEnv.step", "start_of"),
    ),
    "worlds/hands/gymnasium.py": ("HandsEnv", "HandsEnv.reset", "HandsEnv.step", "HandsEnv._info"),
    "training/optim.py": ("Muon._muon", "Muon._adam"),
    "rewards/ray_actors.py": ("RayOptions.of_actor", "_Actor.score"),
}


def untyped(tree: ast.AST, owner: str = "") -> list[str]:
    """The function or class around every untyped table, in annotations, calls and casts."""
    found = []
    for node in ast.iter_child_nodes(tree):
        inside = owner
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{owner}.{node.name}".removeprefix(".")
        table = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
        text = ast.unparse(node) if table and node.value.id in TABLES else ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [inside] * sum(node.value.count(kind) for kind in UNTYPED)
        elif text in UNTYPED:
            found.append(inside)
        found += untyped(node, inside)
    return found


def elsewhere(file: str, tree: ast.Module) -> list[str]:
    """One sentence for every untyped table in a file that is not at a listed edge."""
    found = (name for name in untyped(tree) if name.rpartition(".")[2] not in WRITERS_AND_READERS)
    return [
        f"{file}: {name or 'the module'} passes {count} untyped tables: give them a frozen type, or list the edge"
        for name, count in Counter(found).items()
        if name not in EDGES.get(file, ())
    ]


def test_untyped_tables_stay_at_the_edges():
    files = {path.relative_to(ROOT).as_posix(): parsed(path) for path in ROOT.rglob("*.py")}
    assert not [line for file, tree in files.items() for line in elsewhere(file, tree)]


def test_every_listed_edge_exists():
    for file, names in EDGES.items():
        assert set(names) <= set(untyped(parsed(ROOT / file))), file


@pytest.mark.parametrize(
    "line",
    [
        "def planted(row: dict[str, Any]) -> int: ...",
        "def planted() -> Mapping[str, Any]: ...",
        "planted = cast('list[dict[str, Any]]', 0)",
        "class Planted:\n    facts: dict[str, dict[str, Any]]",
    ],
)
def test_a_planted_untyped_table_is_named(line):
    file = "runs/results.py"
    (sentence,) = elsewhere(file, ast.parse((ROOT / file).read_text() + f"\n{line}\n"))
    assert "passes 1 untyped tables" in sentence
