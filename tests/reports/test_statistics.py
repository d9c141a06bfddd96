import numpy as np
import pytest

from rpn_jax.reports.statistics import (
    holm,
    interval,
    mean_and_deviation,
    paired_difference,
    resample_images,
)


def test_mean_and_deviation():
    mean, deviation = mean_and_deviation(np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]]))
    assert mean.tolist() == [3.0, 5.0]
    # Squares 4 + 1 + 9 over 2.
    np.testing.assert_allclose(deviation, [np.sqrt(7), 0.0])
    mean, deviation = mean_and_deviation(np.array([[0.25]]))
    assert mean.tolist() == [0.25]
    assert np.isnan(deviation).all()


@pytest.fixture
def counts():
    """Hits (2 runs, 400 images, 1 figure) and objects; the second run finds a few more."""
    random = np.random.default_rng(3)
    objects = random.integers(0, 6, 400)
    ours = random.binomial(objects, 0.6)
    theirs = np.minimum(objects, ours + random.binomial(1, 0.1, 400))
    return np.stack([ours, theirs])[:, :, None].astype(float), objects.astype(float)


def test_resampled_ratios_spread_as_the_delta_method_has_it(counts):
    hits, objects = counts
    ratios = resample_images(hits, objects, 4000)
    assert ratios.shape == (4000, 2, 1)
    ratio = hits.sum(axis=1)[:, 0] / objects.sum()
    np.testing.assert_allclose(ratios.mean(axis=0)[:, 0], ratio, atol=2e-3)
    rests = hits[:, :, 0] - ratio[:, None] * objects[None, :]
    expected = np.sqrt((rests**2).sum(axis=1)) / objects.sum()
    np.testing.assert_allclose(ratios.std(axis=0)[:, 0], expected, rtol=0.05)
    low, high = interval(ratios[:, 0])
    np.testing.assert_allclose(high - low, 2 * 1.96 * expected[0], rtol=0.06)
    np.testing.assert_array_equal(ratios, resample_images(hits, objects, 4000))


def test_images_without_objects_change_nothing_but_the_draws(counts):
    hits, objects = counts
    empty = np.concatenate([hits, np.zeros_like(hits)], axis=1)
    ratios = resample_images(empty, np.concatenate([objects, np.zeros_like(objects)]), 4000)
    np.testing.assert_allclose(
        ratios.mean(axis=0)[:, 0], hits.sum(axis=1)[:, 0] / objects.sum(), atol=2e-3
    )
    assert np.isfinite(resample_images(np.zeros((1, 3, 2)), np.zeros(3), 10)).all()


def test_draws_without_an_object_are_left_out():
    # Of two images one has the object: a quarter of the draws is of the other one alone.
    hits, objects = np.array([[[0.5], [0.0]]]), np.array([1.0, 0.0])
    ratios = resample_images(hits, objects, 1000)
    assert 700 < len(ratios) < 800
    np.testing.assert_array_equal(ratios, 0.5)
    nothing = resample_images(0 * hits, 0 * objects, 1000)
    assert nothing.shape == (0, 1, 1)
    assert np.isnan(interval(nothing[:, 0])).all()


def difference(hits, objects, ours, theirs):
    values = hits.sum(axis=1) / objects.sum()
    ratios = resample_images(hits, objects, 2000)
    return paired_difference(values[ours], values[theirs], ratios[:, ours], ratios[:, theirs])


def test_what_all_images_share_is_no_noise(counts):
    hits, objects = counts
    alike = difference(hits, objects, [0], [0])
    assert [array.tolist() for array in alike] == [[0.0], [0.0], [0.0], [1.0]]
    # Alone, each run is known to about 1.5 points; their difference, of 2, much better.
    better = difference(hits, objects, [1], [0])
    assert 0.01 < better.low[0] < better.mean[0] < better.high[0] < 0.04
    assert better.p[0] == pytest.approx(2 / 2001)
    worse = difference(hits, objects, [0], [1])
    np.testing.assert_allclose(worse.low, -better.high)
    assert worse.p == better.p


def test_seeds_that_disagree_are_noise():
    # Every image has one object; a hit in each or in none, so that images make no noise.
    def seeds(*hits):
        return np.array(hits, float)[:, None, None].repeat(50, axis=1)

    objects = np.ones(50)
    agree = difference(seeds(0.5, 0.5, 0.6, 0.6), objects, [2, 3], [0, 1])
    np.testing.assert_allclose([agree.low, agree.high], 0.1)
    assert agree.p[0] < 0.01
    disagree = difference(seeds(0.5, 0.5, 0.4, 0.8), objects, [2, 3], [0, 1])
    assert disagree.mean[0] == pytest.approx(0.1)
    assert disagree.low[0] < 0 < disagree.high[0]
    assert disagree.p[0] > 0.2


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_resampled_seeds_vary_as_the_mean_of_seeds_does(seeds):
    gaps = np.random.default_rng(0).normal(size=(seeds, 1))
    ratios = np.broadcast_to(gaps, (20_000, seeds, 1))
    result = paired_difference(gaps, 0 * gaps, ratios, 0 * ratios)
    # The ends of the interval of a mean known to sd / sqrt(S), roughly: it takes few values.
    error = gaps.std(ddof=1) / np.sqrt(seeds)
    assert 1.1 * error < (result.high[0] - result.low[0]) / 2 < 2.3 * error


def test_p_is_right_when_nothing_differs():
    """Of 300 pairs that differ by chance about a twentieth has p < 0.05."""
    random = np.random.default_rng(7)
    hits = random.binomial(3, 0.5, size=(600, 120, 1)).astype(float)
    objects = np.full(120, 3.0)
    values, ratios = hits.sum(axis=1) / objects.sum(), resample_images(hits, objects, 400)
    p = [
        paired_difference(values[[i]], values[[i + 1]], ratios[:, [i]], ratios[:, [i + 1]]).p[0]
        for i in range(0, 600, 2)
    ]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_holm():
    # 0.01 * 3, then 0.03 * 2, and 0.04 not below that of the one before; in columns.
    p = np.array([[0.01, 0.9], [0.04, 0.8], [0.03, 0.7]])
    np.testing.assert_allclose(holm(p), [[0.03, 1.0], [0.06, 1.0], [0.06, 1.0]])
    np.testing.assert_allclose(holm(np.array([[0.2]])), [[0.2]])


def test_unknown_replicates_are_left_out(counts):
    ratios = resample_images(*counts, 4000)
    some = ratios.copy()
    some[1000:] = np.nan
    for ours, theirs in zip(interval(some[:, 0]), interval(ratios[:1000, 0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    values = ratios.mean(axis=0)
    difference = paired_difference(values[:1], values[1:], some[:, :1], some[:, 1:])
    fewer = paired_difference(values[:1], values[1:], ratios[:1000, :1], ratios[:1000, 1:])
    for ours, theirs in zip(difference, fewer, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    some[:] = np.nan
    _, *unknown = paired_difference(values[:1], values[1:], some[:, :1], some[:, 1:])
    assert np.isnan(unknown).all()
