"""Rows of a batch and the pasts they belong to."""

from __future__ import annotations


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
