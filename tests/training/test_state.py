"""Averages of the parameters, and which parameters a network is used with."""

import functools

import jax
import numpy as np
import optax
import pytest

from rpn_jax.training.state import averaged, evaluation_variables, initial_state

VARIABLES = {
    "params": {"frozen": np.float32([1, 2]), "learns": np.float32([3, 4])},
    "batch_stats": {"mean": np.float32([0.1])},
}
MASK = {"frozen": False, "learns": True}


def first_state(**options):
    return initial_state(VARIABLES, MASK, optax.sgd(0.1), **options)


def test_early_averages_forget_the_initial_values_and_late_ones_are_slow():
    ema = {"params": {"frozen": None, "learns": np.zeros(1)}, "batch_stats": {}}
    follow = functools.partial(averaged, trainable={"frozen": None, "learns": np.ones(1)})

    def moved(step, decay):
        return float(follow(ema, batch_stats={}, step=step, decay=decay)["params"]["learns"][0])

    assert moved(0, 0.99) == pytest.approx(9 / 10)
    assert moved(1, 0.99) == pytest.approx(9 / 11)
    assert moved(10_000, 0.99) == pytest.approx(0.01, rel=1e-4)
    # What remains of the initial values after 20 steps: the product of (1 + s) / (10 + s).
    for step in range(20):
        ema = follow(ema, batch_stats={}, step=step, decay=0.9999)
    remains = np.prod([(1 + step) / (10 + step) for step in range(20)])
    assert 1 - ema["params"]["learns"][0] == pytest.approx(remains, abs=1e-6)
    assert remains < 1e-6


def test_an_average_of_constants_is_the_constant_to_the_bit():
    constant = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    ema = {"params": {}, "batch_stats": constant}
    for step in range(5):
        ema = averaged(ema, {}, constant, step, 0.97)
    np.testing.assert_array_equal(ema["batch_stats"], constant)


def test_a_network_is_used_with_the_averages_where_there_are_any():
    state = first_state()
    assert state.ema is None
    assert evaluation_variables(state) == VARIABLES
    state = first_state(with_ema=True)
    # Frozen leaves have no average; copies, because one buffer cannot be donated twice.
    assert state.ema["params"]["frozen"] is None
    assert state.ema["params"]["learns"] is not state.params["learns"]
    state = state._replace(ema=jax.tree.map(lambda x: x + 1, state.ema))
    used = evaluation_variables(state)
    np.testing.assert_array_equal(used["params"]["frozen"], [1, 2])
    np.testing.assert_array_equal(used["params"]["learns"], [4, 5])
    np.testing.assert_array_equal(used["batch_stats"]["mean"], np.float32([1.1]))
