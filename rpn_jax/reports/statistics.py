"""Significance tests: do settings differ by more than the choice of images and seeds? Pure NumPy.

A figure of a run is a ratio, hits over objects, each summed over the images; or it is an average
precision. The bootstrap estimates its noise: images are resampled with replacement. All runs share
each sample, so that the difficulty of an image cancels out of their difference. Seeds of a setting
are resampled too, independently of the images (the pigeonhole bootstrap of Owen, Annals of Applied
Statistics 1(2), 2007): three lucky seeds are no finding.

Axes: R  runs    S  seeds of a setting    I  images    M  figures    B  bootstrap replicates
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

REPLICATES = 10_000
PRECISION_REPLICATES = 1000  # of average precision, which takes some ms for each
CONFIDENCE = 0.95
_AT_ONCE = 250  # replicates per chunk: 250 of 5000 images take 10 MB


class Difference(NamedTuple):
    """A setting less another, for each figure.

    Fields:
      mean: mean difference over the paired seeds.
      low, high: ends of the 95 % interval; NaN without replicates.
      p: two-sided p-value of the hypothesis of no difference; at least 2 / (B + 1); NaN the same.
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
) -> Difference:
    """Returns our figures less theirs, paired by seed and images.

    Row s of both has the same seed. With one seed, the noise is that of the images alone.
    Replicates that are NaN are left out.
    """
    gaps = our_replicates - their_replicates
    weights = _draw_seeds(len(ours), len(gaps))
    means = (weights[:, :, None] * gaps).mean(axis=1)
    low, high = interval(means)
    contrary = np.minimum((means <= 0).sum(axis=0), (means >= 0).sum(axis=0))
    count = (~np.isnan(means)).sum(axis=0)
    p = np.minimum(2 * (1 + contrary) / (count + 1), 1.0)
    p = np.where(count > 0, p, np.nan)
    return Difference((ours - theirs).mean(axis=0), low, high, p)


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


def _draw_seeds(count: int, replicates: int) -> Float[np.ndarray, "B S"]:
    """Returns each seed's weight in each replicate, 1 in the mean.

    A plain bootstrap of `count` seeds underestimates their variance by the factor
    (count - 1) / count, for three seeds by a third: hence the stretch (Rao and Wu, JASA 83, 1988).
    """
    if count == 1:
        return np.ones((replicates, 1))
    drawn = np.random.default_rng(count).multinomial(
        count, np.full(count, 1 / count), size=replicates
    )
    return 1 + (drawn - 1) * math.sqrt(count / (count - 1))


def holm(p: Float[np.ndarray, "K M"]) -> Float[np.ndarray, "K M"]:
    """Returns the p-values of K comparisons, corrected by the method of Holm (1979)."""
    count = len(p)
    order = np.argsort(p, axis=0, kind="stable")
    scaled = np.take_along_axis(p, order, axis=0) * np.arange(count, 0, -1)[:, None]
    corrected = np.empty_like(scaled)
    rising = np.minimum(np.maximum.accumulate(scaled, axis=0), 1.0)
    np.put_along_axis(corrected, order, rising, axis=0)
    return corrected
