import jax
import numpy as np

from rpn_jax.models.mask_head import MaskHead

POOLED = np.random.default_rng(0).normal(size=(2, 3, 5, 5, 8)).astype(np.float32)
LABELS = np.array([[1, 2, 0], [0, 2, 1]])
HEAD = MaskHead(num_classes=3, channels=4, convolutions=2, norm="group_norm")


def test_a_head_has_a_mask_for_each_region():
    variables = jax.jit(HEAD.init)(jax.random.key(0), POOLED, LABELS)
    apply = jax.jit(HEAD.apply)
    logits = apply(variables, POOLED, LABELS)
    assert logits.shape == (2, 3, 10, 10)
    # No region sees another.
    others, labels = POOLED.copy(), 0 * LABELS
    others[0], others[1, :2], labels[1, 2] = 0, 1, LABELS[1, 2]
    again = apply(variables, others, labels)
    np.testing.assert_allclose(again[1, 2], logits[1, 2], rtol=1e-5, atol=1e-6)


def test_a_class_without_a_region_has_no_gradient_and_spreads_nothing():
    variables = jax.jit(HEAD.init)(jax.random.key(0), POOLED, LABELS)
    kernel = variables["params"]["logits"]["kernel"].at[..., 1].set(np.nan)
    params = {**variables["params"], "logits": {"kernel": kernel, "bias": np.zeros(3, "f")}}
    labels = np.where(LABELS == 1, 2, LABELS)
    gradient = jax.jit(jax.grad(lambda p: HEAD.apply({"params": p}, POOLED, labels).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    d_kernel = np.asarray(gradient["logits"]["kernel"])
    assert not d_kernel[..., 1].any()
    assert d_kernel[..., [0, 2]].any()


def test_a_cell_becomes_four_by_a_matrix_for_each():
    head = MaskHead(num_classes=2, channels=3, convolutions=0)
    rng = np.random.default_rng(1)
    arrays = {
        "upsample": {"kernel": rng.normal(size=(2, 2, 8, 3)), "bias": rng.normal(size=3)},
        "logits": {"kernel": rng.normal(size=(1, 1, 3, 2)), "bias": rng.normal(size=2)},
    }
    params = jax.tree.map(np.float32, arrays)
    labels = 0 * LABELS
    labels[1, 0] = 1
    logits = jax.jit(head.apply)({"params": params}, POOLED, labels)
    kernel, bias = params["upsample"]["kernel"], params["upsample"]["bias"]
    for y, x, a, b in ((0, 0, 0, 0), (1, 4, 0, 1), (3, 2, 1, 0), (4, 4, 1, 1)):
        cell = np.maximum(POOLED[1, 0, y, x] @ kernel[a, b] + bias, 0)
        expected = cell @ params["logits"]["kernel"][0, 0, :, 1] + params["logits"]["bias"][1]
        np.testing.assert_allclose(logits[1, 0, 2 * y + a, 2 * x + b], expected, rtol=1e-4)
