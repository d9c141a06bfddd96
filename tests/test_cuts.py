"""The cheapest cut into runs, against every cut there is."""

import itertools

import numpy as np
import pytest

from rpn_jax.cuts import cheapest_cut


def all_cuts(n, count):
    for inner in itertools.combinations(range(1, n), count - 1):
        yield [0, *inner, n]


def cost_of(cost, bounds):
    return sum(cost[i, j] for i, j in itertools.pairwise(bounds))


def random_costs(seed, n):
    cost = np.random.default_rng(seed).integers(0, 9, (n, n + 1)).astype(float)
    cost[np.tril_indices(n)] = np.inf
    return cost


@pytest.mark.parametrize("n", [1, 2, 5, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize("seed", range(5))
def test_no_cut_is_cheaper(n, count, seed):
    cost = random_costs(seed, n)
    most = min(count, n)
    bounds = cheapest_cut(cost, count)
    assert len(bounds) == most + 1
    assert cost_of(cost, bounds) == min(cost_of(cost, cut) for cut in all_cuts(n, most))
    fewer = cheapest_cut(cost, count, allow_fewer=True)
    assert len(fewer) <= most + 1
    every = [cut for k in range(1, most + 1) for cut in all_cuts(n, k)]
    assert cost_of(cost, fewer) == min(cost_of(cost, cut) for cut in every)


def test_equal_costs():
    cost = np.where(np.tri(4, 5, dtype=bool), np.inf, 0.0)
    assert cheapest_cut(cost, 3) == [0, 1, 2, 4]
    assert cheapest_cut(cost, 3, allow_fewer=True) == [0, 4]
