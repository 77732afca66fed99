"""Forward passes of rollouts by formula: rows x denoising steps, and a prefix pass for every past with latents."""

from __future__ import annotations


def clip_level_passes(
    num_chunks: int, group_size: int, num_steps: int, explore: float = 0.0, clip_chunks: int = 1
) -> int:
    """Forward passes of one group of the last of ``num_chunks`` chunks, with one imagined past."""
    per_step = 2 if explore else 1
    after = group_size * (clip_chunks - 1) * (num_steps + 1)
    return (num_chunks - 1 + per_step * group_size) * num_steps + num_chunks - 1 + after


def whole_video_passes(num_chunks: int, group_size: int, num_steps: int, explore: float = 0.0) -> int:
    """Forward passes of one group of whole videos of ``num_chunks`` chunks."""
    per_step = 2 if explore else 1
    return group_size * ((num_chunks - 1 + per_step) * num_steps + num_chunks - 1)
