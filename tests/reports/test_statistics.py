import calibrate_statistics
import numpy as np
import pytest
from scipy import stats

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
    replicates = ratios[:, ours], ratios[:, theirs]
    return paired_difference(values[ours], values[theirs], *replicates, len(objects))


def test_what_all_images_share_is_no_noise(counts):
    hits, objects = counts
    alike = difference(hits, objects, [0, 0], [0, 0])
    assert [array.tolist() for array in alike] == [[0.0], [0.0], [0.0], [1.0]]
    # Alone, each run is known to about 1.5 points; their difference, of 2, much better.
    better = difference(hits, objects, [1, 1], [0, 0])
    assert 0.01 < better.low[0] < better.mean[0] < better.high[0] < 0.04
    assert better.p[0] < 1e-4
    worse = difference(hits, objects, [0, 0], [1, 1])
    np.testing.assert_allclose(worse.low, -better.high)
    np.testing.assert_allclose(worse.p, better.p)


def test_one_seed_has_an_interval_of_the_images_and_no_p(counts):
    hits, objects = counts
    better = difference(hits, objects, [1], [0])
    gaps = np.subtract(*resample_images(hits, objects, 2000)[:, ::-1, 0].T)
    np.testing.assert_allclose([better.low[0], better.high[0]], np.quantile(gaps, [0.025, 0.975]))
    assert np.isnan(better.p).all()


def figures_of_seeds(*hits):
    """Hits (runs, 50 images, 1): so many in each image, so that images make no noise."""
    return np.array(hits, float)[:, None, None].repeat(50, axis=1)


def test_noise_of_seeds_alone_is_that_of_the_t_test():
    ours, theirs = [0.5, 0.62, 0.55], [0.41, 0.52, 0.5]
    hits = figures_of_seeds(*ours, *theirs)
    found = difference(hits, np.ones(50), [0, 1, 2], [3, 4, 5])
    expected = stats.ttest_ind(ours, theirs)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.p, expected.pvalue)
    np.testing.assert_allclose([found.low[0], found.high[0]], [interval.low, interval.high])


def test_the_p_value_belongs_to_the_interval():
    random = np.random.default_rng(5)
    hits = random.binomial(5, 0.5, size=(6, 80, 1)) + np.zeros((6, 1, 1))
    found = difference(hits, np.full(80, 5.0), [0, 1, 2], [3, 4, 5])
    shift = 5.0 * found.high  # hits per image, after which one end of the interval is at 0
    hits[:3] -= shift
    moved = difference(hits, np.full(80, 5.0), [0, 1, 2], [3, 4, 5])
    assert moved.high[0] == pytest.approx(0.0, abs=1e-12)
    assert moved.p[0] == pytest.approx(0.05)


def test_settings_that_differ_on_each_image_vary_with_the_images():
    """Seeds agree bit for bit; a setting is better on half of the images, the other on the rest."""
    hits = np.zeros((4, 100, 1))
    hits[:2, :50] = hits[2:, 50:] = 1.0
    found = difference(hits, np.ones(100), [0, 1], [2, 3])
    # A difference of ±1 in each image: 1 / sqrt(100), and no degree of freedom is lost to seeds.
    np.testing.assert_allclose([found.low[0], found.high[0]], [-0.196, 0.196], rtol=0.06)
    assert found.p[0] == 1.0


# Settings that are the same, of one column: few seeds that vary much, and images alone.
@pytest.mark.parametrize(("seeds", "ratio"), [(2, 1.0), (3, 0.0)])
def test_equal_settings_are_called_different_in_a_twentieth_of_trials(seeds, ratio):
    called, found = calibrate_statistics.calibrate(
        seeds, 50, ratio, trials=300, studies=[(2, 1)], difference=0.3, replicates=50
    )
    assert 0.03 <= called[0] <= 0.07  # 0.06 is the limit; the error is ±0.013
    assert found[0] > 3 * called[0]


def test_many_settings_and_columns_are_one_family(capsys):
    called, _ = calibrate_statistics.calibrate(
        3, 50, 1.0, trials=40, studies=[(6, 5)], replicates=30
    )
    assert called[0] <= 0.1  # any of 25 cells; without correction a third of the studies
    calibrate_statistics.main(["--quick", "--trials=2", "--replicates=20"])
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["seeds", "images", "ratio"]
    assert first.split() == ["1", "50", "0", "0.00", *(8 * ["0.0"])]  # one seed marks nothing


def test_holm():
    # 0.01 * 3, then 0.03 * 2, and 0.04 not below that of the one before.
    np.testing.assert_allclose(holm(np.array([[0.01], [0.04], [0.03]])), [[0.03], [0.06], [0.06]])
    # All columns are one family; what was not tested does not count.
    p = np.array([[0.01, np.nan], [0.04, 0.001]])
    np.testing.assert_allclose(holm(p), [[0.02, np.nan], [0.04, 0.003]])
    assert holm(np.full((2, 1), np.nan)).shape == (2, 1)


def test_unknown_replicates_are_left_out(counts):
    ratios = resample_images(*counts, 4000)
    some = ratios.copy()
    some[1000:] = np.nan
    for ours, theirs in zip(interval(some[:, 0]), interval(ratios[:1000, 0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    values = ratios.mean(axis=0)
    difference = paired_difference(values[:1], values[1:], some[:, :1], some[:, 1:], 400)
    fewer = paired_difference(values[:1], values[1:], ratios[:1000, :1], ratios[:1000, 1:], 400)
    for ours, theirs in zip(difference, fewer, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    some[:] = np.nan
    _, *unknown = paired_difference(values[:1], values[1:], some[:, :1], some[:, 1:], 400)
    assert np.isnan(unknown).all()
