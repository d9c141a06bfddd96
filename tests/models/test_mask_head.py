import jax
import numpy as np

from rpn_jax.models.mask_head import MaskHead

POOLED = np.random.default_rng(0).normal(size=(2, 3, 5, 5, 8)).astype(np.float32)
HEAD = MaskHead(num_classes=3, channels=4, convolutions=2, norm="group_norm")


def test_a_head_has_a_mask_for_each_class_of_each_region():
    variables = jax.jit(HEAD.init)(jax.random.key(0), POOLED)
    apply = jax.jit(HEAD.apply)
    logits = apply(variables, POOLED)
    assert logits.shape == (2, 3, 10, 10, 3)
    # No region sees another.
    others = POOLED.copy()
    others[0], others[1, :2] = 0, 1
    np.testing.assert_allclose(apply(variables, others)[1, 2], logits[1, 2], rtol=1e-5, atol=1e-6)


def test_a_cell_becomes_four_by_a_matrix_for_each():
    head = MaskHead(num_classes=2, channels=3, convolutions=0)
    rng = np.random.default_rng(1)
    arrays = {
        "upsample": {"kernel": rng.normal(size=(2, 2, 8, 3)), "bias": rng.normal(size=3)},
        "logits": {"kernel": rng.normal(size=(1, 1, 3, 2)), "bias": rng.normal(size=2)},
    }
    params = jax.tree.map(np.float32, arrays)
    logits = jax.jit(head.apply)({"params": params}, POOLED)
    kernel, bias = params["upsample"]["kernel"], params["upsample"]["bias"]
    for y, x, a, b in ((0, 0, 0, 0), (1, 4, 0, 1), (3, 2, 1, 0), (4, 4, 1, 1)):
        cell = np.maximum(POOLED[1, 0, y, x] @ kernel[a, b] + bias, 0)
        expected = cell @ params["logits"]["kernel"][0, 0] + params["logits"]["bias"]
        np.testing.assert_allclose(logits[1, 0, 2 * y + a, 2 * x + b], expected, rtol=1e-4)
