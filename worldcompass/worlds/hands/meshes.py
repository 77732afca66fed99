"""Meshes made by formulas: surfaces of revolution and bent tubes, as MJCF text."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vertices = list[tuple[float, float, float]]
Faces = list[tuple[int, int, int]]


def lathe(profile: Sequence[tuple[float, float]], sides: int = 24) -> tuple[Vertices, Faces]:
    """A closed surface of revolution about z from a closed profile of (radius, z), counter-clockwise."""
    size = len(profile)
    angles = [2 * math.pi * i / sides for i in range(sides)]
    vertices = [(r * math.cos(a), r * math.sin(a), z) for a in angles for r, z in profile]
    faces: Faces = []
    for i in range(sides):
        here, there = i * size, (i + 1) % sides * size
        for p in range(size):
            q = (p + 1) % size
            faces += [(here + p, there + p, there + q), (here + p, there + q, here + q)]
    return vertices, faces


def tube(
    path: Sequence[tuple[float, float]], normals: Sequence[tuple[float, float]], radius: float, sides: int = 8
) -> tuple[Vertices, Faces]:
    """A closed tube along a path of (x, z) in the plane y = 0; ``normals`` are unit vectors across the path."""
    turns = [2 * math.pi * j / sides for j in range(sides)]
    vertices = [
        (x + radius * math.cos(u) * nx, radius * math.sin(u), z + radius * math.cos(u) * nz)
        for (x, z), (nx, nz) in zip(path, normals, strict=True)
        for u in turns
    ]
    faces: Faces = []
    for i in range(len(path) - 1):
        for j in range(sides):
            a, b = i * sides + j, i * sides + (j + 1) % sides
            faces += [(a, b + sides, b), (a, a + sides, b + sides)]
    last = (len(path) - 1) * sides
    for j in range(1, sides - 1):
        faces += [(0, j, j + 1), (last, last + j + 1, last + j)]
    return vertices, faces


def arc(
    centre: tuple[float, float], radii: tuple[float, float], tube_radius: float, steps: int = 12
) -> tuple[Vertices, Faces]:
    """A tube along the right half of an ellipse about ``centre`` (x, z): a handle."""
    angles = [-math.pi / 2 + math.pi * i / steps for i in range(steps + 1)]
    path = [(centre[0] + radii[0] * math.cos(t), centre[1] + radii[1] * math.sin(t)) for t in angles]
    return tube(path, [(math.cos(t), math.sin(t)) for t in angles], tube_radius)


def mesh_text(name: str, mesh: tuple[Vertices, Faces]) -> str:
    """The ``<mesh>`` element, vertices inline."""
    vertices = " ".join(f"{value:.5f}" for vertex in mesh[0] for value in vertex)
    faces = " ".join(str(index) for face in mesh[1] for index in face)
    return f'<mesh name="{name}" inertia="shell" vertex="{vertices}" face="{faces}"/>'
