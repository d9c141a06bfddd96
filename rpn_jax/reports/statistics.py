"""Significance tests: do settings differ by more than the choice of images and seeds?

A figure of a run is a ratio, hits over objects, each summed over the images; or it is an average
precision. Two settings have S seeds each, measured on the same images. Their mean difference
varies by

  V_seeds   the choice of seeds, with all that is drawn anew for each run and image
  V_images  the choice of images, as far as the two settings differ on them whatever the seed

V_seeds is estimated from the spread of the figures over the seeds, the same for both settings, with
f = 2 (S - 1) degrees of freedom. The bootstrap resamples the images with replacement, all runs
alike, so that the difficulty of an image cancels. Its variance of the mean difference holds
V_images and a part of V_seeds, the interaction of seeds and images, which the variances of single
seeds' differences tell apart (the analysis of variance of a two-way layout).

The half-width of the interval, and with it the p-value, is that of Banerjee (Sankhya 23, 1961):

  h² = t(f)² V_seeds + t(I - 1)² V_images     with Student's quantiles t at the same level

It errs on the safe side, whatever the ratio of the two variances. Two usual ways do not. A
bootstrap of images and seeds (Owen, Annals of Applied Statistics 1(2), 2007) takes the spread of
two or three seeds for known; Satterthwaite's degrees of freedom do so whenever the seeds happen to
agree, which with two of them is often. `scripts/calibrate_statistics.py` simulates both sources,
and `docs/sweeps.md` has its figures.

With one seed V_seeds is unknown. The interval is then of the images alone, and there is no p-value.

Axes: R  runs    S  seeds of a setting    I  images    M  figures    B  bootstrap replicates
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

REPLICATES = 10_000
PRECISION_REPLICATES = 1000  # of average precision, which takes some ms for each
CONFIDENCE = 0.95
_AT_ONCE = 250  # replicates per chunk: 250 of 5000 images take 10 MB


class Difference(NamedTuple):
    """A setting less another, for each figure.

    Fields:
      mean: mean difference over the seeds.
      low, high: ends of the 95 % interval; NaN without replicates.
      p: two-sided p-value of the hypothesis of no difference; NaN with one seed too.
    """

    mean: Float[np.ndarray, " M"]
    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]
    p: Float[np.ndarray, " M"]


def mean_and_deviation(
    values: Float[np.ndarray, "S M"],
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Returns mean and standard deviation over the seeds; the latter is NaN for fewer than two."""
    mean = values.mean(axis=0)
    squares = ((values - mean[None, :]) ** 2).sum(axis=0)
    return mean, np.sqrt(squares / (len(values) - 1 or np.nan))


def resample_images(
    hits: Float[np.ndarray, "R I M"],
    objects: Float[np.ndarray, " I"],
    replicates: int = REPLICATES,
) -> Float[np.ndarray, "B R M"]:
    """Returns each run's figures, hits over objects, on `replicates` resamples of the images.

    Every call has the same resamples. A resample without objects has no figures and is left out, so
    that B can be less than `replicates`; it is 0 if no image has an object.
    """
    runs, images, figures = hits.shape
    columns = hits.transpose(1, 0, 2).reshape(images, runs * figures)
    columns = np.concatenate([columns, objects[:, None]], axis=1)
    drawn = [times.astype(np.float64) @ columns for times in resamples(images, replicates)]
    sums = np.concatenate(drawn)
    sums = sums[sums[:, -1] > 0]
    return (sums[:, :-1] / sums[:, -1:]).reshape(len(sums), runs, figures)


def resamples(images: int, replicates: int) -> Iterator[Int[np.ndarray, "rows I"]]:
    """Yields how often each image is drawn, many resamples at once; fewer are the first of more."""
    random = np.random.default_rng(0)
    for start in range(0, replicates, _AT_ONCE):
        rows = min(_AT_ONCE, replicates - start)
        drawn = random.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)


def paired_difference(
    ours: Float[np.ndarray, "S M"],
    theirs: Float[np.ndarray, "S M"],
    our_replicates: Float[np.ndarray, "B S M"],
    their_replicates: Float[np.ndarray, "B S M"],
    images: int,
) -> Difference:
    """Returns our figures less theirs, of as many seeds and the same images.

    Row s of both has the same seed. Replicates that are NaN are left out. `images` is the number of
    images with an object; one alone has no interval.
    """
    seeds, gaps = len(ours), our_replicates - their_replicates
    mean = (ours - theirs).mean(axis=0)
    if seeds == 1:
        return Difference(mean, *interval(gaps[:, 0]), np.full(len(mean), np.nan))
    of_seeds = (ours.var(axis=0, ddof=1) + theirs.var(axis=0, ddof=1)) / seeds
    of_mean = _variance(gaps.mean(axis=1))
    interaction = (_variance(gaps).mean(axis=0) - of_mean) / (seeds - 1)
    of_images = np.maximum(of_mean - interaction, 0.0)

    def half_width(level):
        return np.sqrt(
            stdtrit(2 * (seeds - 1), level / 2) ** 2 * of_seeds
            + stdtrit(images - 1, level / 2) ** 2 * of_images
        )

    # The least level at which the interval leaves out 0.
    low, high = np.zeros(len(mean)), np.ones(len(mean))
    for _ in range(50):
        level = (low + high) / 2
        is_out = np.abs(mean) > half_width(level)
        low, high = np.where(is_out, low, level), np.where(is_out, level, high)
    width = half_width(1 - CONFIDENCE)
    return Difference(mean, mean - width, mean + width, np.where(np.isnan(width), np.nan, high))


def _variance(replicates: Float[np.ndarray, "B *shape"]) -> Float[np.ndarray, "*shape"]:
    """Returns the variance over the replicates; NaN without any."""
    known = ~np.isnan(replicates)
    count = known.sum(axis=0)
    count = np.where(count > 0, count, np.nan)
    mean = np.where(known, replicates, 0.0).sum(axis=0) / count
    return np.where(known, (replicates - mean) ** 2, 0.0).sum(axis=0) / count


def interval(
    replicates: Float[np.ndarray, "B M"],
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Returns the ends of the 95 % interval of each figure; NaN without replicates.

    Replicates that are NaN are left out.
    """
    ends = np.full((2, replicates.shape[1]), np.nan)
    for m, column in enumerate(replicates.T):
        if len(known := column[~np.isnan(column)]):
            ends[:, m] = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return ends[0], ends[1]


def holm(p: Float[np.ndarray, "K M"]) -> Float[np.ndarray, "K M"]:
    """Returns the p-values of K comparisons by M figures, corrected by the method of Holm (1979).

    All of them are one family: the chance of a wrong finding anywhere is bounded. NaN, where there
    was no test, stays NaN and does not count.
    """
    flat = p.ravel()
    order = np.argsort(flat, kind="stable")[: np.count_nonzero(~np.isnan(flat))]
    rising = np.maximum.accumulate(flat[order] * np.arange(len(order), 0, -1))
    corrected = np.full(len(flat), np.nan)
    corrected[order] = np.minimum(rising, 1.0)
    return corrected.reshape(p.shape)
