"""Uniform random Latin squares by the Jacobson-Matthews chain: the ``latin`` null.

Every symbol stands once in every row and column, as in the table of a group, but there is no rule
to find: what separates learning a group from learning this is structure that generalises.
"""

from __future__ import annotations

import random


def random_latin_square(order: int, seed: int, *, visits: int | None = None) -> list[list[int]]:
    """A random Latin square by ±1-moves on its incidence cube.

    The chain of Jacobson and Matthews (1996) walks over proper and improper squares; watched at its
    visits to proper ones it has the uniform law. So proper visits are counted, not moves: the first
    proper square after a fixed number of moves is *not* uniform. ``order``² visits take about
    ``order``³ moves, the usual practice.

    Args:
        order: Number of symbols, at least 2.
        seed: Seed of a private generator.
        visits: Proper squares to pass through; ``order``² if not given.

    Returns:
        Rows of symbols 0 … order − 1.

    Raises:
        ValueError: If ``order`` is below 2.

    Examples:
        >>> square = random_latin_square(5, seed=1)
        >>> all(sorted(row) == list(range(5)) for row in [*square, *zip(*square)])
        True
    """
    if order < 2:
        raise ValueError(f"The `order` of a Latin square must be at least 2. Got {order}.")
    n, draw = order, random.Random(seed)
    # The cube as three tables of lists: which x, y, z complete a pair to a 1. In a proper square
    # every list has one element; an improper one has one cell -1, whose three lines hold two 1s.
    symbol = [[[(x + y) % n] for y in range(n)] for x in range(n)]  # (x, y) -> z
    column = [[[(z - x) % n] for z in range(n)] for x in range(n)]  # (x, z) -> y
    row = [[[(z - y) % n] for z in range(n)] for y in range(n)]  # (y, z) -> x
    negative: tuple[int, int, int] | None = None

    def add(x: int, y: int, z: int) -> None:
        nonlocal negative
        if negative == (x, y, z):  # -1 + 1: the cell becomes 0 and needs no entry
            negative = None
            return
        symbol[x][y].append(z)
        column[x][z].append(y)
        row[y][z].append(x)

    def take(x: int, y: int, z: int) -> None:
        nonlocal negative
        if z in symbol[x][y]:
            symbol[x][y].remove(z)
            column[x][z].remove(y)
            row[y][z].remove(x)
        else:
            negative = (x, y, z)

    seen, target = 0, visits if visits is not None else n**2
    while seen < target:
        if negative is None:
            x, y = draw.randrange(n), draw.randrange(n)
            z = draw.choice([s for s in range(n) if s != symbol[x][y][0]])
        else:
            x, y, z = negative
        x1, y1, z1 = draw.choice(row[y][z]), draw.choice(column[x][z]), draw.choice(symbol[x][y])
        add(x, y, z)
        add(x, y1, z1)
        add(x1, y, z1)
        add(x1, y1, z)
        take(x, y, z1)
        take(x, y1, z)
        take(x1, y, z)
        take(x1, y1, z1)
        seen += negative is None
    return [[symbol[x][y][0] for y in range(n)] for x in range(n)]
