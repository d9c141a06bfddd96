from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rpn_jax.models.backbones.base import Backbone

IMAGES = np.ones((1, 2, 2, 3), np.float32)


class Products(Backbone):
    """Each stage multiplies by its weight, and by 10 more when it trains."""

    weights: Any = ()

    def stages(self):
        def stage(weight):
            return lambda x, train: x * weight * (10 if train else 1)

        return {f"c{i}": stage(weight) for i, weight in enumerate(self.weights, start=1)}


def run(weights, train=True, frozen_stages=0, output_stages=("c3",)):
    backbone = Products(frozen_stages, output_stages, weights=weights)
    return backbone.apply({}, IMAGES, train)


def test_the_outputs_are_those_asked_for_and_nothing_beyond_is_run():
    c1, c3 = run([2.0, 3.0, 5.0, None], train=False, output_stages=("c1", "c3"))
    np.testing.assert_array_equal(c1, 2 * IMAGES)
    np.testing.assert_array_equal(c3, 30 * IMAGES)


def test_frozen_stages_run_as_in_evaluation():
    weights = [1.0, 1.0, 1.0]
    for frozen_stages, expected in ((0, 1000), (2, 10), (3, 1)):
        np.testing.assert_array_equal(run(weights, True, frozen_stages)[0], expected * IMAGES)
        np.testing.assert_array_equal(run(weights, False, frozen_stages)[0], IMAGES)


def test_frozen_stages_get_no_gradient():
    def loss(weights):
        return run(weights, False, frozen_stages=2)[0].sum()

    # The sum over 12 numbers of w1 w2 w3, of which only w3 counts as a variable: 12 * 2 * 3.
    np.testing.assert_array_equal(jax.grad(loss)(jnp.array([2.0, 3.0, 5.0])), [0, 0, 72])


def test_no_output_of_a_frozen_stage_leads_below_it():
    def loss(weights):
        outputs = run(weights, False, frozen_stages=2, output_stages=("c1", "c2", "c3"))
        return sum(output.sum() for output in outputs)

    np.testing.assert_array_equal(jax.grad(loss)(jnp.array([2.0, 3.0, 5.0])), [0, 0, 72])
