import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from rpn_jax.ops import roi_maxima
from rpn_jax.ops.roi import assign_levels, pyramid_roi_align, roi_align, roi_pool

# 4 * y + x.
RAMP = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
NAN_BOXES = np.float32([[np.nan, 0, 32, 32], [0, 0, 32, np.nan]])


def values(pooled):
    """The one channel of each region, row by row."""
    return np.asarray(pooled).reshape(len(pooled), -1).tolist()


# One program for each set of options.
jitted_align = jax.jit(
    roi_align,
    static_argnames=("size", "scale", "sampling_ratio", "aligned", "max_samples"),
)
jitted_pool = jax.jit(roi_pool, static_argnames=("size", "scale"))


def cells_boxes(*boxes):
    """Boxes in cells of a map of stride 16."""
    return 16 * np.float32(boxes)


def test_a_bin_is_the_mean_of_its_bilinear_samples():
    align = functools.partial(jitted_align, RAMP, scale=1 / 16)
    boxes = cells_boxes(
        # Samples at 0.5 and 1.5 along both axes: their mean is the middle of the box, 4 * 1 + 1.
        (0, 0, 2, 2),
        # Samples at x = -0.75 and -0.25 count as at 0, for they are within a cell of the map.
        (-1, 1, 0, 2),
        # Of the samples at x = -1.5 and -0.5 the first is 0.
        (-2, 1, 0, 2),
    )
    assert values(align(boxes, size=1)) == [[5], [4 * 1.5], [4 * 1.5 / 2]]
    # Bins of 1 x 2 cells with their middles at (0.5, 1) and (1.5, 1).
    assert values(align(boxes[:1], size=(1, 2))) == [[4.5, 5.5]]


def test_the_last_cell_reaches_to_the_size_of_the_map():
    # One sample, at x = 3.95 and at x = 4.05, both at y = 0.5.
    boxes = cells_boxes((3, 0, 4.9, 1), (3, 0, 5.1, 1))
    pooled = jitted_align(RAMP, boxes, size=1, scale=1 / 16, sampling_ratio=1)
    assert values(pooled) == [[4 * 0.5 + 3], [0]]


def test_a_box_smaller_than_a_cell_is_a_cell_unless_aligned():
    boxes = cells_boxes((1, 1, 1, 1), (0.5, 0.5, 2.5, 2.5))
    align = functools.partial(jitted_align, RAMP, boxes, size=1, scale=1 / 16)
    assert values(align()) == [[4 * 1.5 + 1.5], [4 * 1.5 + 1.5]]
    # Half a cell up and left.
    assert values(align(aligned=True)) == [[4 * 0.5 + 0.5], [4 * 1 + 1]]
    # Without cells there are no samples.
    assert values(align(aligned=True, sampling_ratio=0)) == [[0], [4 * 1 + 1]]


def test_adaptive_bins_have_a_sample_a_cell_up_to_the_bound():
    squares = np.tile(np.arange(8, dtype=np.float32)[None, :, None] ** 2, (8, 1, 1))
    align = functools.partial(jitted_align, squares, size=1, scale=1 / 16, sampling_ratio=0)
    boxes = cells_boxes((0, 0, 4, 4), (0, 0, 1, 4))
    # At x = 0.5, 1.5, 2.5 and 3.5; with a bound of two at 1 and 3.
    assert values(align(boxes)) == [[(0.5 + 2.5 + 6.5 + 12.5) / 4], [0.5]]
    assert values(align(boxes, max_samples=2)) == [[(1 + 9) / 2], [0.5]]


def test_maxima_of_overlapping_bins():
    boxes = cells_boxes(
        # Cells 0 to 2, both ends included: bins of 1.5 cells touch 0 and 1, 1 and 2.
        (0, 0, 2, 2),
        # Cell 1 across, 2 down: half cells are rounded away from zero.
        (0.5, 1.5, 0.5, 1.5),
        # Columns -1, outside, and 0.
        (-0.5, 0, 0, 0),
        # Inside out: one cell.
        (2, 2, 0, 0),
        # Outside, where all is 0, though the maxima are negative.
        (9, 9, 9, 9),
    )
    pooled = jitted_pool(RAMP - 20, boxes, size=2, scale=1 / 16)
    assert values(pooled) == [
        [5 - 20, 6 - 20, 9 - 20, 10 - 20],
        [9 - 20] * 4,
        [0, -20, 0, -20],
        [10 - 20] * 4,
        [0] * 4,
    ]


def test_the_gradient_of_a_maximum_goes_to_the_first_one_row_by_row():
    features = np.float32([[0, 5, 0], [5, 0, 5]])[..., None]

    def pooled(features):
        boxes = cells_boxes((0, 0, 2, 1))
        return jnp.sum(roi_pool(features, boxes, size=(1, 2), scale=1 / 16))

    # Both bins have cell (0, 1), and later ones as large.
    gradient = jax.jit(jax.grad(pooled))(features)
    np.testing.assert_array_equal(gradient[..., 0], [[0, 2, 0], [0, 0, 0]])


def test_levels_begin_at_112_224_and_448_pixels():
    sides = np.float32([0, 111.99, 112, 223.99, 224, 447.99, 448, 5000])
    boxes = np.stack([sides, sides, 2 * sides, 2 * sides], axis=1)
    assert assign_levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    # A rounding error below belongs to the level, as torchvision has it.
    almost = np.float32([[0, 0, side, side] for side in (111.99995, 223.9999, 447.9998)])
    assert assign_levels(almost).tolist() == [1, 2, 3]
    assert assign_levels(almost, eps=0).tolist() == [0, 1, 2]
    assert assign_levels(boxes, min_level=3, max_level=4).tolist() == [0] * 4 + [1] * 4
    assert assign_levels(boxes, min_level=4, max_level=4).tolist() == [0] * 8
    assert assign_levels(np.float32([[50, 50, -999, -999], [0, 0, np.nan, 9]])).tolist() == [0, 0]


def cases(seed):
    """A map with ties, and boxes inside, outside and across the border."""
    rng = np.random.default_rng(seed)
    features = rng.integers(-5, 5, (9, 7, 2)).astype(np.float32)
    boxes = references.random_boxes(rng, 12, extent=140, largest=120) - 30
    boxes[:2] = [[60, 40, 20, 10], [30, 30, 30, 30]]
    return features, boxes


OPTIONS = {"size": (3, 2), "scale": 1 / 16}


POOLS = {
    "adaptive": functools.partial(roi_align, sampling_ratio=0, **OPTIONS),
    "pool": functools.partial(roi_pool, **OPTIONS),
    "pyramid": lambda features, boxes: pyramid_roi_align(
        [features, features[::2, ::2]], boxes, size=(3, 2), strides=(8, 16), canonical_size=100
    ),
}


def with_gradient(name):
    """A function from features, boxes and the gradient of the result to both of them."""

    def both(features, boxes, d_pooled):
        pooled, gradient = jax.vjp(lambda x: POOLS[name](x, boxes), features)
        return pooled, gradient(d_pooled)[0]

    return both


@pytest.mark.parametrize(("ratio", "aligned"), [(0, False), (3, True)])
def test_samples_equal_the_reference(ratio, aligned):
    features, boxes = cases(0)
    pooled = jitted_align(features, boxes, sampling_ratio=ratio, aligned=aligned, **OPTIONS)
    expected = references.roi_align(features, boxes, (3, 2), 1 / 16, ratio, aligned)
    np.testing.assert_allclose(pooled, expected, atol=1e-5)


def test_maxima_and_their_gradient_equal_the_reference():
    features, boxes = cases(1)
    d_pooled = np.random.default_rng(2).normal(size=(len(boxes), 3, 2, 2)).astype(np.float32)
    pooled, gradient = jax.jit(with_gradient("pool"))(features, boxes, d_pooled)
    np.testing.assert_array_equal(pooled, references.roi_pool(features, boxes, (3, 2), 1 / 16))
    expected = references.roi_pool(features, boxes, (3, 2), 1 / 16, d_pooled)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("name", POOLS)
def test_eager_jitted_and_batched_agree(name):
    features, boxes = (np.stack(x) for x in zip(cases(3), cases(4), strict=True))
    d_pooled = np.random.default_rng(5).normal(size=(2, 12, 3, 2, 2)).astype(np.float32)
    both = with_gradient(name)
    batched = jax.jit(jax.vmap(both))(features, boxes, d_pooled)
    eager = POOLS[name](jnp.asarray(features[0]), boxes[0])
    np.testing.assert_allclose(eager, batched[0][0], atol=1e-5)
    alone = jax.jit(both)(features[1], boxes[1], d_pooled[1])
    for ours, of_batch in zip(alone, batched, strict=True):
        np.testing.assert_allclose(ours, of_batch[1], atol=1e-5)


@pytest.mark.parametrize("name", POOLS)
def test_accelerators_compute_what_a_cpu_does(name, monkeypatch):
    features, boxes = cases(8)
    d_pooled = np.random.default_rng(9).normal(size=(len(boxes), 3, 2, 2)).astype(np.float32)
    on_cpu = jax.jit(with_gradient(name))(features, boxes, d_pooled)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    monkeypatch.setattr(roi_maxima, "_BYTES_AT_ONCE", 4 * 3 * 7 * 2 * 5)  # 5 regions at a time
    elsewhere = jax.jit(with_gradient(name))(features, boxes, d_pooled)
    for ours, theirs in zip(on_cpu, elsewhere, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("name", POOLS)
def test_boxes_that_are_not_finite_have_finite_gradients_and_get_none(name):
    features, boxes = cases(5)
    boxes = np.concatenate([NAN_BOXES, boxes, np.float32([[-np.inf] * 4, [0, 0, np.inf, 1e30]])])

    def pooled(features, boxes):
        out = POOLS[name](features, boxes)
        return jnp.sum(out * jnp.cos(out)), out

    (d_features, d_boxes), out = jax.jit(jax.grad(pooled, (0, 1), has_aux=True))(features, boxes)
    assert not out[: len(NAN_BOXES)].any()
    assert np.isfinite(out).all()
    assert np.isfinite(d_features).all()
    assert d_features.any()
    assert not d_boxes.any()


@pytest.mark.parametrize(("ratio", "aligned"), [(0, False), (3, True)])
def test_the_gradient_of_boxes_is_that_of_finite_differences(ratio, aligned):
    """Of the reference in float64, with boxes across all borders of the map."""
    features, boxes = cases(10)
    boxes += np.float32(0.3)  # no sample at a cell's centre, where two slopes meet
    strange = np.concatenate([NAN_BOXES, np.float32([[-np.inf] * 4, [0, 0, np.inf, 1e30]])])
    d_pooled = np.random.default_rng(11).normal(size=(16, 3, 2, 2)).astype(np.float32)

    def weighted(features, boxes, box_gradient):
        options = {"sampling_ratio": ratio, "aligned": aligned, "box_gradient": box_gradient}
        return jnp.sum(d_pooled * roi_align(features, boxes, **options, **OPTIONS))

    @jax.jit
    def gradients(features, boxes):
        both = jax.grad(functools.partial(weighted, box_gradient=True), (0, 1))
        alone = jax.grad(functools.partial(weighted, box_gradient=False))
        return *both(features, boxes), alone(features, boxes)

    d_features, d_boxes, expected = gradients(features, np.concatenate([boxes, strange]))
    np.testing.assert_array_equal(d_features, expected)
    assert np.isfinite(d_boxes).all()
    assert not d_boxes[12:].any()
    step = 1e-5
    for side in range(4):
        moved = np.zeros((12, 4))
        moved[:, side] = step
        upper, lower = (
            references.roi_align(features, boxes + sign * moved, (3, 2), 1 / 16, ratio, aligned)
            for sign in (1, -1)
        )
        slopes = ((upper - lower) * d_pooled[:12]).sum(axis=(1, 2, 3)) / (2 * step)
        assert slopes.any()
        np.testing.assert_allclose(d_boxes[:12, side], slopes, atol=1e-4)


@pytest.mark.parametrize("name", POOLS)
def test_no_boxes(name):
    features, boxes = cases(6)
    empty = np.zeros((0, 3, 2, 2), np.float32)
    pooled, d_features = with_gradient(name)(jnp.asarray(features), boxes[:0], empty)
    assert pooled.shape == empty.shape
    assert not d_features.any()


@pytest.mark.parametrize("name", ["pool", "pyramid"])
def test_the_features_keep_their_type(name):
    features, boxes = cases(7)  # whole numbers up to 5, exact in both types
    both = jax.jit(with_gradient(name))
    half = both(jnp.asarray(features, jnp.bfloat16), boxes, jnp.ones((12, 3, 2, 2), jnp.bfloat16))
    single = both(features, boxes, np.ones((12, 3, 2, 2), np.float32))
    for ours, expected in zip(half, single, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), expected, rtol=0.01, atol=0.02)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"size": (2, -1)}, {"sampling_ratio": -1}, {"max_samples": 0}]
)
def test_numbers_that_are_too_small_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        roi_align(RAMP, cells_boxes((0, 0, 1, 1)), **{"size": 1, "scale": 1 / 16} | options)


def test_each_level_needs_a_stride():
    with pytest.raises(ValueError, match="2 levels have 1 strides"):
        pyramid_roi_align([RAMP, RAMP], cells_boxes((0, 0, 1, 1)), size=1, strides=(4,))


def test_no_constant_is_empty_on_one_level():
    """On such a one, in a program for several devices, jaxlib 0.11.2 ends the process (SIGSEGV)."""
    traced = jax.make_jaxpr(functools.partial(pyramid_roi_align, size=2, strides=(16,)))
    assert all(map(np.size, traced([RAMP], cells_boxes((0, 0, 2, 2))).consts))
