"""Overrides ``key=value`` of a frozen dataclass, typed by its fields; a misspelt key fails at once.

A key is a full path (``config.optimiser.lr``), or a short name (``config.lr``) if the configuration is ``Grouped``.
Fields that hold one of some functions, see ``settings.named``, take their names.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import enum
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import (
    Any,
    Literal,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from worldcompass.errors import UserError
from worldcompass.settings import flattened

C = TypeVar("C")
_Choice = TypeVar("_Choice")

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SCALARS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}


def override(config: C, assignments: Sequence[str]) -> C:
    """A copy of ``config`` with every ``key=value`` set; ``outer.inner=value`` reaches nested dataclasses.

    The name of a group may be omitted in a ``Grouped`` dataclass.

    All values are set at once, so that rules between settings do not depend on the order. The last value of a
    repeated key counts.

    Raises:
        UserError: when a key does not exist, a value does not have the field's type, or values do not fit together.
    """
    changes = _Changes()
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"cannot read the setting {assignment!r}: expected key=value, such as seed=1")
        _note(changes, config, key.strip().split("."), value.strip(), key.strip())
    return _changed(config, changes)


def explained(config: Any) -> Iterator[str]:
    """A line ``key = value`` for every setting, with the first sentence of its docstring below it."""
    said = _docstrings(config)
    for key, value in flattened(config).items():
        yield f"{key} = {_shown(value)}"
        if key in said:
            yield f"    {said[key]}"


def _docstrings(config: Any, prefix: str = "") -> dict[str, str]:
    """First sentences of the strings below a dataclass's fields, by the settings' full names."""
    found: dict[str, str] = {}
    for owner in reversed(type(config).__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except (OSError, TypeError, SyntaxError, ValueError):  # its source is not here
            continue
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, after in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(field.target, ast.Name)
            ):
                text = after.value.value if isinstance(after.value, ast.Constant) else ""
                found[prefix + field.target.id] = re.split(r"(?<=[.]) ", " ".join(str(text).split()))[0]
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            found |= _docstrings(value, f"{prefix}{field.name}.")
    return found


def _shown(value: Any) -> str:
    """A value as text; functions by their names."""
    return (
        f"{value.__module__}.{value.__qualname__}"
        if callable(value) and hasattr(value, "__qualname__")
        else str(value)
    )


def parse_value(text: str, kind: Any, key: str) -> Any:
    """Parse ``text`` as a value of the annotation ``kind``.

    Raises:
        UserError: with the key, the expected kind and the text, in one sentence.
    """
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _parse_union(text, options, key)
    if origin is Literal:
        return _choose(text, {str(option): option for option in options}, key)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _choose(text, {member.name: member for member in kind}, key)
    if origin in (tuple, list):
        return _parse_sequence(text, origin, options, key)
    if kind is bool:
        return _choose(text.lower(), _BOOLS, key)
    if kind in _SCALARS:
        return _parse_scalar(text, kind, key)
    if origin is dict:
        raise UserError(f"{key} must be set by name: {key}.NAME=VALUE")
    raise UserError(f"{key} cannot be set from the command line: write a recipe that sets it in Python")


@runtime_checkable
class Grouped(Protocol):
    """A dataclass with settings in groups, all of which have unique short names."""

    def group_of(self, name: str) -> str | None:
        """The group of a setting; None without a group."""
        ...

    def flat(self) -> dict[str, object]:
        """Every setting by its short name."""
        ...


class _Changes(dict[str, object]):
    """New values of a dataclass by field; a nested dataclass has ``_Changes`` as its value."""


def _note(changes: _Changes, config: Any, path: list[str], text: str, key: str) -> None:
    names = [field.name for field in dataclasses.fields(config)]
    name, *inside = path
    if name not in names:
        grouped: Grouped | None = config if isinstance(config, Grouped) else None
        if grouped is not None and (group := grouped.group_of(name)) is not None:
            return _note(changes, config, [group, *path], text, key)
        before = key.removesuffix(".".join(path))
        known = {before + full: short for full, short in _names_in(config).items()}
        near = difflib.get_close_matches(name, set(known.values()), n=3, cutoff=0.5)
        said = [full for short in near for full in known if known[full] == short][:3]
        said = said or [before + own for own in sorted(names)]
        raise UserError(f"there is no setting {key!r}; nearest: {', '.join(said)}")
    field = next(field for field in dataclasses.fields(config) if field.name == name)
    if not inside and (functions := field.metadata.get("named")):
        changes[name] = _choose(text, functions, key)
        return None
    current, kind = getattr(config, name), _kind_of(type(config), name, key)
    if not inside:
        changes[name] = parse_value(text, kind, key)
    elif isinstance(current, dict):
        so_far = cast("dict[str, object]", changes.get(name, current))
        changes[name] = so_far | {inside[0]: parse_value(text, get_args(kind)[1], key)}
    elif dataclasses.is_dataclass(current):
        own = changes.setdefault(name, _Changes())
        if not isinstance(own, _Changes):
            raise UserError(f"{name} was set as a whole, so {key!r} cannot be set")
        _note(own, current, inside, text, key)
    else:
        raise UserError(f"{name} has no settings inside it, so {key!r} cannot be set")


def _names_in(config: Any) -> dict[str, str]:
    """What can be set: full name -> last part; the settings of ``Grouped`` fields without their groups."""
    own = list(dict.fromkeys([f.name for f in dataclasses.fields(config)]))
    names = {name: name for name in [*own, *(config.flat() if isinstance(config, Grouped) else ())]}
    for name in own:
        if isinstance(value := getattr(config, name), Grouped):
            names |= {f"{name}.{short}": short for short in value.flat()}
    return names


def _kind_of(owner: type, name: str, key: str) -> Any:
    """The annotation of one field; others may name what only type checkers import."""
    home = next(kind for kind in owner.__mro__ if name in vars(kind).get("__annotations__", {}))
    alone = type(
        "_Field", (), {"__module__": home.__module__, "__annotations__": {name: home.__annotations__[name]}}
    )
    try:
        return get_type_hints(alone)[name]
    except NameError as error:
        raise UserError(f"{key} cannot be set from the command line: its type is unknown ({error})") from None


def _changed(config: Any, changes: _Changes) -> Any:
    """A copy with the changes; a ValueError of the dataclass becomes a UserError."""
    values = {
        n: _changed(getattr(config, n), v) if isinstance(v, _Changes) else v for n, v in changes.items()
    }
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        said = str(error) if "; got " in str(error) else f"{', '.join(_texts(changes))} does not fit: {error}"
        raise UserError(said) from None


def _texts(changes: _Changes) -> list[str]:
    parts = (_texts(v) if isinstance(v, _Changes) else [f"{n}={v!r}"] for n, v in changes.items())
    return [text for part in parts for text in part]


def _parse_union(text: str, options: tuple[Any, ...], key: str) -> Any:
    if type(None) in options and text.lower() == "none":
        return None
    failures = []
    for option in (o for o in options if o is not type(None)):
        try:
            return parse_value(text, option, key)
        except UserError as error:
            failures.append(error)
    raise failures[0]


def _choose(text: str, choices: Mapping[str, _Choice], key: str) -> _Choice:
    if text not in choices:
        raise UserError(f"{key} must be one of {', '.join(choices)}, not {text!r}")
    return choices[text]


def _parse_sequence(text: str, origin: type, options: tuple[Any, ...], key: str) -> Any:
    parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
    fixed = origin is tuple and not (len(options) == 2 and options[1] is Ellipsis)
    if fixed and len(parts) != len(options):
        raise UserError(f"{key} needs {len(options)} values separated by commas, got {len(parts)}")
    kinds = options if fixed else (options[0],) * len(parts)
    return origin(parse_value(part, kind, key) for part, kind in zip(parts, kinds, strict=True))


def home_of(text: str) -> Path:
    """A path that may begin with ``~``, which a shell leaves alone in ``--set key=~/x``.

    Raises:
        UserError: for an unknown user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: {error}") from None


def _parse_scalar(text: str, kind: type, key: str) -> Any:
    try:
        return home_of(text) if kind is Path else kind(text)
    except ValueError:
        raise UserError(f"{key} must be {_SCALARS[kind]}, not {text!r}") from None
