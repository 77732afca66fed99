"""The configuration of a run: steps, a seed, and groups of settings."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

from worldcompass.parallel.sharding import Parallel
from worldcompass.rollout import imagine_whole_videos
from worldcompass.runs.settings import VERSION
from worldcompass.settings import Rule, enforce
from worldcompass.training.balance import Weighing
from worldcompass.training.curriculum import Sampling, shares_pasts
from worldcompass.training.keeping import Keeping
from worldcompass.training.optim import UNLIMITED, Optimiser
from worldcompass.training.selection import Learning, along_path, at_first, at_levels


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run; its world, critics and scenarios are separate.

    Every setting has a unique short name without its group, such as ``lr``. ``changed``, ``from_flat``, ``--set``
    and the records of a run use it.
    """

    steps: int = 100
    """Training steps, each with one rollout and ``updates_per_rollout`` optimiser updates."""
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    """Which futures a step imagines."""
    rewards: Weighing = field(default_factory=Weighing)
    """How the scores of critics become advantages."""
    learning: Learning = field(default_factory=Learning)
    """Which futures are trained on, and the loss."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    """How the weights and their averages are updated."""
    keeping: Keeping = field(default_factory=Keeping)
    """What the run saves and monitors."""
    parallel: Parallel = field(default_factory=Parallel)
    """How processes share a step."""

    def __post_init__(self) -> None:
        sampling, learning, parallel = self.sampling, self.learning, self.parallel
        group_size, ranks = sampling.group_size, parallel.ranks_per_group
        chosen = learning.best + learning.worst
        rows = chosen * learning.noise_levels
        enforce(
            self.flat(),
            [
                Rule(("steps",), self.steps >= 1, "steps must be at least 1"),
                Rule(("seed",), self.seed >= 0, "seed must not be negative"),
                Rule(
                    ("group_size", "best", "worst"),
                    1 <= chosen <= group_size,
                    "best + worst must be between 1 and group_size",
                ),
                Rule(
                    ("draw", "stochastic"),
                    learning.draw is not along_path or sampling.stochastic > 0,
                    "draw=along_path needs a rollout with noise in its steps: set stochastic, such as 0.7",
                ),
                Rule(
                    ("draw", "explore"),
                    learning.draw is not along_path or not sampling.explore,
                    "draw=along_path needs explore=0: guided steps are not the policy's own",
                ),
                Rule(
                    ("draw", "rollout", "ranks_per_group"),
                    learning.draw in (at_levels, at_first) or (ranks == 1 and shares_pasts(sampling.rollout)),
                    "draw=along_path and draw=in_pairs need candidates that share a past, all in one process",
                ),
                Rule(
                    ("data_share", "true_pasts"),
                    not learning.data_share or sampling.true_pasts > 0,
                    "data_share needs groups with true_pasts above 0",
                ),
                Rule(
                    ("autocast_bf16", "gather_bf16"),
                    self.optimiser.autocast_bf16 or not parallel.gather_bf16,
                    "gather_bf16 needs autocast_bf16=true",
                ),
                Rule(
                    ("ranks_per_group",),
                    ranks == 1 or sampling.rollout is not imagine_whole_videos,
                    "ranks_per_group needs candidates that share a past, as imagine_groups makes",
                ),
                Rule(
                    ("group_size", "best", "worst", "ranks_per_group"),
                    ranks == 1
                    or (
                        group_size % ranks == chosen % ranks == 0
                        and group_size >= 2 * ranks
                        and rows % (learning.updates_per_rollout * ranks) == 0
                    ),
                    "group_size, best + worst and the rows of each update must be multiples of ranks_per_group, "
                    "with 2 candidates or more for each",
                ),
            ],
            UNLIMITED,
        )

    @classmethod
    def from_flat(cls, **settings: Any) -> Config:
        """A configuration from settings by their short names, with defaults for the rest.

        Raises:
            ValueError: when there is no such setting, or a rule between settings is broken.
        """
        return cls().changed(**settings)

    def changed(self, **settings: Any) -> Config:
        """A copy with new values of settings by their short names, all set at once.

        Raises:
            ValueError: when there is no such setting, or a rule between settings is broken.
        """
        own = {f.name for f in dataclasses.fields(self)}
        values: dict[str, object] = {name: value for name, value in settings.items() if name in own}
        inside: dict[str, dict[str, object]] = {}
        for name in settings.keys() - own:
            group = self.group_of(name)
            if group is None:
                near = difflib.get_close_matches(name, self.flat(), n=3, cutoff=0.5) or sorted(own)
                raise ValueError(f"there is no setting {name!r}; nearest: {', '.join(near)}")
            inside.setdefault(group, {})[name] = settings[name]
        values |= {group: replace(getattr(self, group), **part) for group, part in inside.items()}
        return replace(self, **values)

    @classmethod
    def group_of(cls, name: str) -> str | None:
        """The group of a setting, by the setting's short name; None without a group."""
        return _groups(cls).get(name)

    def flat(self) -> dict[str, object]:
        """Every setting by its short name."""
        groups = sorted(set(_groups(type(self)).values()))
        values: dict[str, object] = {name: value for name, value in vars(self).items() if name not in groups}
        for group in groups:
            values |= vars(cast("object", getattr(self, group)))
        return values

    def settings(self) -> dict[str, object]:
        """Every setting by its short name, as JSON values; functions become their full names."""
        return {name: _plain(value) for name, value in self.flat().items()}

    def described(self) -> dict[str, object]:
        """The configuration with its groups and version, as JSON values."""
        settings: dict[str, object] = {name: _plain(value) for name, value in vars(self).items()}
        return {"version": VERSION, **settings}


@cache
def _groups(config: type[Config]) -> Mapping[str, str]:
    """The group of every grouped setting, by the setting's short name."""
    found: dict[str, str] = {}
    for group in dataclasses.fields(config):
        if isinstance(group.default_factory, type):
            found |= {inner.name: group.name for inner in dataclasses.fields(group.default_factory)}
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value
