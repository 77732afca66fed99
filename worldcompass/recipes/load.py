"""Load a recipe by name or from a user's file."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from worldcompass.critic import FAILURES, error_line
from worldcompass.errors import UserError
from worldcompass.recipes.overrides import home_of

OWN = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)
NO_RECIPES = {"catalogue", "load", "overrides"}  # modules of this folder that are not recipes


def shipped_recipes() -> list[str]:
    """Names of the modules in ``worldcompass.recipes`` that hold a recipe."""
    modules = {m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])}
    return sorted(name for name in modules - NO_RECIPES if not name.startswith("_"))


def summaries() -> dict[str, str]:
    """The first line of every shipped recipe, by name; nothing is imported."""
    texts = {
        name: (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8") for name in shipped_recipes()
    }
    return {
        name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0] for name, text in texts.items()
    }


def load_recipe(name: str) -> Callable[[], Any]:
    """The recipe function for a name such as ``doom_full``, ``worldplay_8b:lora`` or ``my_recipe.py:NAME``.

    Raises:
        UserError: when the module, the file or the function does not exist.
    """
    source, function = parts_of(name)
    module = load_module(source)
    function = function or Path(source).stem
    recipe = getattr(module, function, None)
    if not callable(recipe):
        raise UserError(f"{source} has no recipe function {function!r}; name one as {source}:FUNCTION")
    return recipe


def make_recipe(name: str) -> Any:
    """What the recipe function of this name returns, see ``load_recipe``.

    Raises:
        UserError: when there is none, it needs arguments, fails, or returns no dataclass.
    """
    make = load_recipe(name)
    needed = _needed(make)
    if needed:
        raise UserError(f"{name} needs arguments ({', '.join(needed)}): a recipe is a function without any")
    try:
        recipe = make()
    except UserError:
        raise
    except FAILURES as error:
        raise UserError(f"{name} failed: {error_line(error)}") from error
    if isinstance(recipe, type) or not dataclasses.is_dataclass(recipe):
        raise UserError(
            f"{name} returned {type(recipe).__name__}: expected a frozen dataclass with a method"
            " run(out, device, resume)"
        )
    return recipe


def _needed(make: Callable[..., Any]) -> list[str]:
    """The arguments that a function cannot be called without."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # of a function of C
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind in OWN]


def load_module(source: str) -> ModuleType:
    """A shipped module of recipes, or a user's file.

    Raises:
        UserError: when there is none, or it cannot be imported.
    """
    return _load_file(home_of(source)) if source.endswith(".py") else _load_shipped(source)


def parts_of(name: str) -> tuple[str, str]:
    """Source and function; a colon in the path of a file is no separator."""
    source, _, function = name.rpartition(":") if ".py:" in name else name.partition(":")
    return (name, "") if name.endswith(".py") else (source, function)


def _load_shipped(name: str) -> ModuleType:
    names = shipped_recipes()
    if name not in names:
        near = difflib.get_close_matches(name, names)
        words = (
            f"nearest: {', '.join(near)}"
            if near
            else f"there are {', '.join(names)}, and your own FILE.py:FUNCTION"
        )
        raise UserError(f"there is no recipe {name!r}; {words}")
    return importlib.import_module(f"worldcompass.recipes.{name}")


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"there is no recipe file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look up their annotations there
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # as for a script, so that the file can import its neighbours
    try:
        spec.loader.exec_module(module)
    except (*FAILURES, SyntaxError, SystemExit) as error:
        raise UserError(f"{path} cannot be imported ({error_line(error)})") from error
    return module
