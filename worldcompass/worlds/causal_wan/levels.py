"""Noise levels for which causal Wan2.1 networks were made."""

from __future__ import annotations

from collections.abc import Sequence

from worldcompass.noise import ExplicitLevels

SHIFT = 5.0  # timestep_shift of all released configurations
TABLE = 1000  # entries of the official scheduler, and its highest timestep
FOUR_STEPS = (1000, 750, 500, 250)  # denoising_step_list of minWM, ForgeWM and Matrix-Game 2's Temple Run


def warped_levels(steps: Sequence[int], shift: float = SHIFT) -> ExplicitLevels:
    """The levels of a student, from the entries of the official table that its list of steps names.

    Args:
        steps: falling, from 1 to 1000, as in the official configurations with ``warp_denoising_step``.
        shift: of the table.
    """
    shares = [step / TABLE for step in steps]
    return ExplicitLevels((*(shift * u / (1 + (shift - 1) * u) for u in shares), 0.0))
