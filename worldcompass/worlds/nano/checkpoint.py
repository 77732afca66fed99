"""What the configuration next to a checkpoint says: the Hydra snapshot ``config.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.worlds.nano.config import SIZES, NanoConfig
from worldcompass.worlds.nano.noising import Noising
from worldcompass.worlds.open.yaml_files import read_yaml

_ARCHITECTURE = re.compile(r"NanoWM-([A-Z]+)/(\d+)")
_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
_MISSING = object()

# Values that this code requires, and what another one would mean.
_REQUIRED: Mapping[str, tuple[object, str]] = {
    "model.causal": (True, "its latents see later ones, so that nothing can be imagined step by step"),
    "model.use_action": (True, "it cannot be steered"),
    "model.extras": (1, "it reads classes or text"),
    "latent_codec.kind": ("sd_vae", "its latents have no decoder"),
}


@dataclass(frozen=True)
class Checkpoint:
    """The defaults are those of NanoWM-B/2 for PushT."""

    network: NanoConfig = field(default_factory=NanoConfig)
    noising: Noising = field(default_factory=Noising)
    given: int = 1
    """Frames that evaluation starts from."""
    num_steps: int = 250
    """Denoising steps of the published figures."""
    per_latent: int = 5
    """Settings of the controls between two latents."""
    setting_size: int = 2
    """Numbers of one setting in the data set."""
    scale: float = 100.0
    """Raw actions are divided by it."""
    normalised: bool = True
    """Whether the network then reads them without their mean, in standard deviations."""
    side: int = 256
    """Height and width of a frame in pixels."""

    @classmethod
    def from_yaml(cls, path: Path) -> Checkpoint:
        """Read an official ``config.yaml``.

        Raises:
            UserError: when the file cannot be read, is of a model that this code cannot run, or lacks a size.
        """
        raw = read_yaml(path, "configuration of a Nano World Model")
        try:
            return cls.from_keys(raw)
        except KeyError as why:
            raise UserError(f"{path} lacks {why}: expected the config.yaml of a Nano World Model") from why
        except (TypeError, ValueError) as why:
            raise UserError(
                f"{path} is of no Nano World Model that can be post-trained ({why}): give the file of the"
                " checkpoint's own folder"
            ) from why

    @classmethod
    def from_keys(cls, raw: Mapping[str, Any]) -> Checkpoint:
        """The configuration in its official keys.

        Raises:
            KeyError: when a value is missing.
            ValueError: when it is of another model, or sizes do not fit.
        """
        for key, (wanted, meaning) in _REQUIRED.items():
            if (found := _value(raw, key, wanted)) != wanted:
                raise ValueError(f"{key} is {found!r} instead of {wanted!r}: {meaning}")
        per_latent, size = (
            int(_value(raw, "dataset.frame_interval")),
            int(_value(raw, "dataset.spec.action_dim")),
        )
        return cls(
            network=_network(raw, per_latent * size),
            noising=Noising(
                _value(raw, "experiment.diffusion.pred_name"),
                _value(raw, "experiment.diffusion.noise_schedule", "squaredcos_cap_v2"),
                _value(raw, "experiment.diffusion.zero_terminal_snr", False),
                int(_value(raw, "experiment.diffusion.diffusion_steps", 1000)),
                float(_value(raw, "experiment.diffusion.history_stabilization_level", 0.0)),
            ),
            given=int(_value(raw, "model.n_context_frames", 1)),
            num_steps=int(_value(raw, "model.num_sampling_steps", 250)),
            per_latent=per_latent,
            setting_size=size,
            scale=float(_value(raw, "dataset.loader.action_scale", 1.0) or 1.0),
            normalised=bool(_value(raw, "dataset.loader.normalize_action", False)),
            side=int(_value(raw, "model.image_size", 256)),
        )

    def describe(self) -> str:
        """One line for people."""
        network, noising = self.network, self.noising
        return (
            f"{network.num_blocks} blocks of width {network.width}, {network.injection} actions, windows of"
            f" {network.num_frames} latents of which {self.given} are given, {noising.prediction}-prediction,"
            f" {self.per_latent} settings of {self.setting_size} numbers per latent"
            f"{', normalised' if self.normalised else ''}"
        )


def _network(raw: Mapping[str, Any], action_size: int) -> NanoConfig:
    name = str(_value(raw, "model.arch"))
    found = _ARCHITECTURE.fullmatch(name)
    if not found or found[1] not in SIZES:
        known = ", ".join(f"NanoWM-{size}/2" for size in SIZES)
        raise ValueError(f"model.arch is {name!r}: expected one such as {known}")
    num_blocks, width, num_heads = SIZES[found[1]]
    return NanoConfig(
        latent_channels=int(_value(raw, "model.latent_channels", 4)),
        latent_size=int(_value(raw, "model.latent_size")),
        patch=int(found[2]),
        width=width,
        num_blocks=num_blocks,
        num_heads=num_heads,
        num_frames=int(_value(raw, "model.num_frames")),
        action_size=action_size,
        injection=_value(raw, "model.action_injection.type", "additive"),
    )


def _value(raw: Mapping[str, Any], key: str, default: object = _MISSING, depth: int = 0) -> Any:
    """A value by its dotted key. A reference to another key, ``${dataset.frame_interval}``, is followed.

    Raises:
        KeyError: when it is missing without a default.
        ValueError: when references go round in a circle.
    """
    found: Any = raw
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            if default is _MISSING:
                raise KeyError(key)
            return default
        found = found[part]
    reference = _INTERPOLATION.fullmatch(found) if isinstance(found, str) else None
    if reference is None:
        return default if found is None and default is not _MISSING else found
    if depth > len(raw):
        raise ValueError(f"{key} refers to itself")
    return _value(raw, reference[1], default, depth + 1)
