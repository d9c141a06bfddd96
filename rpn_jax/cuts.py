"""Cutting a sequence into runs of least total cost, by dynamic programming; NumPy alone."""

import numpy as np
from jaxtyping import Float


def cheapest_cut(
    cost: Float[np.ndarray, "n n+1"], count: int, *, allow_fewer: bool = False
) -> list[int]:
    """Returns the bounds of the cheapest runs of n items: run r is bounds[r] to bounds[r + 1] - 1.

    Among cuts of equal cost, later runs begin as early as possible.

    Args:
        cost: cost of the run i to j - 1 at [i, j]; infinite for j <= i.
        count: number of runs, at most n.
        allow_fewer: True if fewer runs may be taken where more cost as much.

    >>> inf = np.inf
    >>> cost = np.array([[inf, 0, 5, 9], [inf, inf, 0, 1], [inf, inf, inf, 0.0]])
    >>> cheapest_cut(cost, 2)
    [0, 1, 3]
    """
    total = len(cost)
    # best[j]: least cost of the first j items, in as many runs as rounds so far.
    best, starts = cost[0].copy(), []
    for _ in range(min(count, total) - 1):
        if allow_fewer:
            best[0] = 0.0
        through = best[:-1, None] + cost  # the last run starts at i and ends before j
        starts.append(through.argmin(axis=0))
        best = through.min(axis=0)
    bounds = [total]
    for start_of in reversed(starts):
        if start := int(start_of[bounds[0]]):
            bounds.insert(0, start)
        else:
            break
    return [0, *bounds]
