"""Contexts of open models as tuples of pasts, and the rows of a batch that belong to each past."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeVar

from torch import Tensor


class Attended(Protocol):
    """What ``attend`` prepared for the coming chunk of P pasts."""

    @property
    def given_K(self) -> Tensor:
        """Mask of the chunk's given latents."""
        ...

    def select(self, row: int) -> Self:
        """The part of a single past."""
        ...


_Past = TypeVar("_Past")
_Attended = TypeVar("_Attended", bound=Attended)


@dataclass(frozen=True)
class Pasts(Generic[_Past, _Attended]):
    """P pasts of the same age; the base of a world's ``Context``."""

    pasts: tuple[_Past, ...]
    num_latents: int = 0
    """Finished latents of every past."""
    attended: _Attended | None = None

    @property
    def num_pasts(self) -> int:
        """P."""
        return len(self.pasts)

    @property
    def given_K(self) -> Tensor | None:
        """Mask of the given latents of the next chunk; None before ``attend``."""
        return self.attended.given_K if self.attended else None

    def select(self, row: int) -> Self:
        """The context of a single past."""
        attended = self.attended and self.attended.select(row)
        return replace(self, pasts=(self.pasts[row],), attended=attended)

    def attended_for(self, length: int) -> _Attended:
        """What ``attend`` prepared for a chunk of ``length`` latents.

        Raises:
            ValueError: when the context was not attended for one.
        """
        attended = self.attended
        if attended is None or len(attended.given_K) != length:
            have = "not attended" if attended is None else f"attended for {len(attended.given_K)} latents"
            raise ValueError(
                f"the context is {have}, the chunk has {length}: call attend(context, actions) first"
            )
        return attended


def rows_per_past(num_rows: int, num_pasts: int) -> int:
    """Number of candidates of each past.

    Raises:
        ValueError: when the pasts do not divide the rows.
    """
    if num_pasts == 0 or num_rows % num_pasts:
        raise ValueError(
            f"{num_rows} rows cannot be divided among {num_pasts} pasts: give each past the same number of rows"
        )
    return num_rows // num_pasts
