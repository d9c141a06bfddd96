import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from rpn_jax.ops import roi_forms
from rpn_jax.ops.roi import assign_levels, pyramid_roi_align, roi_align, roi_pool

# 4 * y + x.
RAMP = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
NAN_BOX = np.float32([[np.nan, 0, 32, 32], [0, 0, 32, np.nan]])


def values(pooled):
    """The one channel of the one region, as a list of rows."""
    return np.asarray(pooled)[0, :, :, 0].tolist()


def cells_boxes(*box):
    """A box in cells of a map of stride 16."""
    return 16 * np.float32([box])


def test_a_bin_is_the_mean_of_its_bilinear_samples():
    align = functools.partial(roi_align, RAMP, scale=1 / 16)
    # Samples at 0.5 and 1.5 along both axes: their mean is the middle of the box, 4 * 1 + 1.
    assert values(align(cells_boxes(0, 0, 2, 2), size=1)) == [[5]]
    # Bins of 1 x 2 cells with their middles at (0.5, 1) and (1.5, 1).
    assert values(align(cells_boxes(0, 0, 2, 2), size=(1, 2))) == [[4.5, 5.5]]
    # Half a cell up and left.
    assert values(align(cells_boxes(0.5, 0.5, 2.5, 2.5), size=1, aligned=True)) == [[5]]
    # Samples at x = -0.75 and -0.25 count as at 0, for they are within a cell of the map.
    assert values(align(cells_boxes(-1, 1, 0, 1), size=1)) == [[4 * 1.5]]
    # Of the samples at x = -1.75, -1.25, -0.75 and -0.25 the first two are 0.
    box = cells_boxes(-2, 1, 0, 2)
    assert values(align(box, size=1, sampling_ratio=4)) == [[4 * 1.5 / 2]]


def test_the_last_cell_reaches_to_the_size_of_the_map():
    align = functools.partial(roi_align, RAMP, size=1, scale=1 / 16, sampling_ratio=1)
    assert values(align(cells_boxes(3, 0, 4.9, 1))) == [[5]]  # at x 3.95: 3, at y 0.5
    assert values(align(cells_boxes(3, 0, 5.1, 1))) == [[0]]  # at x 4.05


def test_a_box_smaller_than_a_cell_is_a_cell_unless_aligned():
    point = cells_boxes(1, 1, 1, 1)
    align = functools.partial(roi_align, RAMP, point, size=1, scale=1 / 16)
    assert values(align()) == [[4 * 1.5 + 1.5]]
    assert values(align(aligned=True)) == [[4 * 0.5 + 0.5]]
    assert values(align(aligned=True, sampling_ratio=0)) == [[0]]  # no cells, no samples


def test_adaptive_bins_have_a_sample_a_cell_up_to_the_bound():
    squares = np.tile(np.arange(8, dtype=np.float32)[None, :, None] ** 2, (8, 1, 1))
    align = functools.partial(
        roi_align, squares, cells_boxes(0, 0, 4, 4), size=1, scale=1 / 16, sampling_ratio=0
    )
    # At 0.5, 1.5, 2.5, 3.5; with two samples at 1 and 3, with one at 2.
    assert values(align()) == [[(0.5 + 2.5 + 6.5 + 12.5) / 4]]
    assert values(align(max_samples=2)) == [[(1 + 9) / 2]]
    assert values(align(max_samples=1)) == [[4]]


def test_maxima_of_overlapping_bins():
    pool = functools.partial(roi_pool, RAMP, scale=1 / 16)
    # Cells 0 to 2, both ends included: bins of 1.5 cells touch 0 and 1, 1 and 2.
    assert values(pool(cells_boxes(0, 0, 2, 2), size=2)) == [[5, 6], [9, 10]]
    assert values(pool(cells_boxes(0.5, 1.5, 0.5, 1.5), size=1)) == [[4 * 2 + 1]]
    assert values(pool(cells_boxes(-0.5, 0, 0, 0), size=(1, 2))) == [[0, 0]]  # -1, outside, and 0
    assert values(pool(cells_boxes(2, 2, 0, 0), size=1)) == [[10]]  # inside out: one cell
    assert values(roi_pool(-1 - RAMP, cells_boxes(9, 9, 9, 9), size=1, scale=1 / 16)) == [[0]]


def test_the_gradient_of_a_maximum_goes_to_the_first_one_row_by_row():
    features = np.float32([[0, 5, 0], [5, 0, 5]])[..., None]

    def pooled(features):
        return jnp.sum(roi_pool(features, cells_boxes(0, 0, 2, 1), size=(1, 2), scale=1 / 16))

    # Both bins have cell (0, 1), and later ones as large.
    np.testing.assert_array_equal(jax.grad(pooled)(features)[..., 0], [[0, 2, 0], [0, 0, 0]])


def test_levels_begin_at_112_224_and_448_pixels():
    sides = np.float32([0, 111.99, 112, 223.99, 224, 447.99, 448, 5000])
    boxes = np.stack([sides, sides, 2 * sides, 2 * sides], axis=1)
    assert assign_levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    # A rounding error below belongs to the level, as torchvision has it.
    almost = np.float32([[0, 0, side, side] for side in (111.99995, 223.9999, 447.9998)])
    assert assign_levels(almost).tolist() == [1, 2, 3]
    assert assign_levels(almost, eps=0).tolist() == [0, 1, 2]
    assert assign_levels(boxes, min_level=3, max_level=4).tolist() == [0] * 4 + [1] * 4
    assert assign_levels(np.float32([[50, 50, -999, -999], [0, 0, np.nan, 9]])).tolist() == [0, 0]


def cases(seed):
    """A map with ties, and boxes inside, outside and across the border."""
    rng = np.random.default_rng(seed)
    features = rng.integers(-5, 5, (9, 7, 2)).astype(np.float32)
    boxes = references.random_boxes(rng, 12, extent=140, largest=120) - 30
    boxes[:2] = [[60, 40, 20, 10], [30, 30, 30, 30]]
    return features, boxes


OPTIONS = {"size": (3, 2), "scale": 1 / 16}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_samples_equal_the_reference(ratio, aligned):
    features, boxes = cases(0)
    pooled = jax.jit(functools.partial(roi_align, sampling_ratio=ratio, aligned=aligned, **OPTIONS))
    expected = references.roi_align(features, boxes, (3, 2), 1 / 16, ratio, aligned)
    np.testing.assert_allclose(pooled(features, boxes), expected, atol=1e-5)


def test_maxima_and_their_gradient_equal_the_reference():
    features, boxes = cases(1)
    pooled, gradient = jax.vjp(lambda x: roi_pool(x, boxes, **OPTIONS), jnp.asarray(features))
    np.testing.assert_array_equal(pooled, references.roi_pool(features, boxes, (3, 2), 1 / 16))
    d_pooled = np.random.default_rng(2).normal(size=pooled.shape).astype(np.float32)
    expected = references.roi_pool(features, boxes, (3, 2), 1 / 16, d_pooled)
    np.testing.assert_allclose(gradient(d_pooled)[0], expected, atol=1e-5)


POOLS = {
    "align": functools.partial(roi_align, **OPTIONS),
    "adaptive": functools.partial(roi_align, sampling_ratio=0, **OPTIONS),
    "pool": functools.partial(roi_pool, **OPTIONS),
    "pyramid": lambda features, boxes: pyramid_roi_align(
        [features, features[::2, ::2]], boxes, size=(3, 2), strides=(8, 16), canonical_size=100
    ),
}


@pytest.mark.parametrize("name", POOLS)
def test_eager_jitted_and_batched_agree(name):
    pool = POOLS[name]
    features, boxes = (np.stack(x) for x in zip(cases(3), cases(4), strict=True))

    def both(features, boxes):
        pooled, gradient = jax.vjp(lambda x: pool(x, boxes), features)
        return pooled, gradient(jnp.cos(pooled))[0]

    batched = jax.jit(jax.vmap(both))(features, boxes)
    for i, single in enumerate((both, jax.jit(both))):  # the first image eagerly
        alone = single(jnp.asarray(features[i]), boxes[i])
        for ours, of_batch in zip(alone, batched, strict=True):
            np.testing.assert_allclose(ours, of_batch[i], atol=1e-5)


@pytest.mark.parametrize("name", POOLS)
def test_a_box_with_a_nan_has_zeros_and_no_box_has_a_gradient(name):
    features, boxes = cases(5)
    boxes = np.concatenate([NAN_BOX, boxes, np.float32([[-np.inf] * 4, [0, 0, np.inf, 1e30]])])

    def pooled(features, boxes):
        out = POOLS[name](features, boxes)
        return jnp.sum(out * jnp.cos(out)), out

    (d_features, d_boxes), out = jax.jit(jax.grad(pooled, (0, 1), has_aux=True))(features, boxes)
    assert not out[:2].any()
    assert np.isfinite(d_features).all()
    assert d_features.any()
    assert not d_boxes.any()


@pytest.mark.parametrize("name", POOLS)
def test_no_boxes(name):
    features, boxes = cases(6)
    pooled, gradient = jax.vjp(lambda x: POOLS[name](x, boxes[:0]), jnp.asarray(features))
    assert pooled.shape == (0, 3, 2, 2)
    assert not gradient(pooled)[0].any()


def test_the_features_keep_their_type():
    features, boxes = cases(7)  # whole numbers up to 5, exact in both types
    half = jnp.asarray(features, jnp.bfloat16)
    for pool in (POOLS["align"], POOLS["pool"]):
        pooled, gradient = jax.jit(lambda x, f=pool: jax.vjp(lambda x: f(x, boxes), x))(half)
        assert pooled.dtype == gradient(pooled)[0].dtype == jnp.bfloat16
        expected = jax.jit(pool)(features, boxes)
        np.testing.assert_allclose(pooled.astype(jnp.float32), expected, atol=0.02)


@pytest.mark.parametrize("name", ["adaptive", "pool", "pyramid"])
def test_accelerators_compute_what_a_cpu_does(name, monkeypatch):
    features, boxes = cases(8)
    d_pooled = np.random.default_rng(9).normal(size=(len(boxes), 3, 2, 2)).astype(np.float32)

    def both(features):
        pooled, gradient = jax.vjp(lambda x: POOLS[name](x, boxes), features)
        return pooled, gradient(d_pooled)[0]

    on_cpu = jax.jit(both)(features)
    monkeypatch.setattr(
        roi_forms.lax, "platform_dependent", lambda *args, cpu, default: default(*args)
    )
    monkeypatch.setattr(roi_forms, "_BYTES_AT_ONCE", 4 * 3 * 7 * 2 * 5)  # 5 regions at a time
    for ours, elsewhere in zip(on_cpu, jax.jit(lambda x: both(x))(features), strict=True):
        np.testing.assert_allclose(elsewhere, ours, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"size": (2, -1)}, {"sampling_ratio": -1}, {"max_samples": 0}]
)
def test_numbers_that_are_too_small_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        roi_align(RAMP, cells_boxes(0, 0, 1, 1), **{"size": 1, "scale": 1 / 16} | options)


def test_each_level_needs_a_stride():
    with pytest.raises(ValueError, match="2 levels have 1 strides"):
        pyramid_roi_align([RAMP, RAMP], cells_boxes(0, 0, 1, 1), size=1, strides=(4,))
