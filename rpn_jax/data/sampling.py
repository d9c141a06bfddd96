"""How often each image is shown, beside the others."""

import numpy as np
from jaxtyping import Bool, Float, Int


def repeat_factors(present: Bool[np.ndarray, "N C"], threshold: float) -> Float[np.ndarray, " N"]:
    """Returns how often each image is shown by repeat-factor sampling (LVIS, arXiv 1908.03195).

    A class that is in a part f of the images has the factor max(1, sqrt(threshold / f)). An image
    has the largest factor of its classes, and 1 without any.

    Args:
      present: which classes each image has.
      threshold: t; classes in more than this part of the images are not repeated. 0.001 in LVIS.

    >>> repeat_factors(np.array([[True, False]] * 3 + [[True, True]]), 1.0).tolist()
    [1.0, 1.0, 1.0, 2.0]
    """
    frequency = present.mean(axis=0)
    factors = np.sqrt(threshold / np.maximum(frequency, 1 / len(present)))
    return np.where(present, np.maximum(factors, 1), 1).max(axis=1, initial=1)


def share_factors(
    weights: Float[np.ndarray, " N"],
    source_of: Int[np.ndarray, " N"],
    shares: Float[np.ndarray, " D"],
) -> Float[np.ndarray, " N"]:
    """Returns the weights of images, times one factor for each source, with which it has its share.

    Args:
      weights: of the images beside those of the same source.
      source_of: place of each image's source in `shares`.
      shares: of the sources, beside each other.

    >>> share_factors(np.ones(3), np.array([0, 1, 1]), np.array([2.0, 1.0])).tolist()
    [2.0, 0.5, 0.5]
    """
    totals = np.bincount(source_of, weights, minlength=len(shares))
    factors = shares / shares.sum() * totals.sum() / totals
    return weights * factors[source_of]
