"""The examples of step s and their canvas: pure functions of (sizes, seed, step)."""

import bisect
import functools
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rpn_jax.cuts import cheapest_cut
from rpn_jax.data.canvases import rounded_up
from rpn_jax.data.transforms import resized_hw

# The purpose of a random stream, part of its seed.
_OFFSETS, _SCHEDULE, _ORDER, _FLIPS, _SCALES, _VIEWS, _AUGMENTATIONS, _PHASES = range(8)
_UNIT = 2**20  # of a weight; whole numbers of it add up to the same everywhere


class Buckets(NamedTuple):
    """The canvases (height, width) of a dataset, and the index of each example's canvas."""

    canvases: tuple[tuple[int, int], ...]
    of_example: Int[np.ndarray, " N"]


def choose_buckets(
    heights: Int[np.ndarray, " N"],
    widths: Int[np.ndarray, " N"],
    *,
    shorter_side: int,
    longer_side: int,
    count: int = 4,
    multiple: int = 16,
) -> Buckets:
    """Returns at most `count` canvases for a dataset, with the least padding.

    Images are ordered by aspect ratio and cut into runs. A run's canvas has the largest height and
    the largest width of its resized images, rounded up to `multiple`. Dynamic programming over the
    distinct sizes finds the cut with the least total canvas area. Every image then goes on the
    smallest canvas that holds it. Every canvas is used.
    """
    rounded = _resized_and_rounded(heights, widths, shorter_side, longer_side, multiple)
    sizes, size_of = np.unique(rounded, axis=0, return_inverse=True)
    size_of_example = size_of.reshape(-1)
    weights = np.bincount(size_of_example, minlength=len(sizes))

    candidates = _cut_into_runs(sizes, weights, count)
    areas = candidates.prod(axis=1)
    fits = (sizes[:, None, :] <= candidates[None, :, :]).all(axis=2)
    chosen = np.where(fits, areas[None, :], np.iinfo(np.int64).max).argmin(axis=1)
    used, canvas_of_size = np.unique(chosen, return_inverse=True)
    canvases = tuple((int(h), int(w)) for h, w in candidates[used])
    return Buckets(canvases, canvas_of_size.reshape(-1)[size_of_example].astype(np.int64))


def rescaled(
    buckets: Buckets,
    heights: Int[np.ndarray, " N"],
    widths: Int[np.ndarray, " N"],
    *,
    shorter_side: int,
    longer_side: int,
    multiple: int = 16,
) -> Buckets:
    """Returns the same buckets of examples, with canvases for another shorter side."""
    of_example = _resized_and_rounded(heights, widths, shorter_side, longer_side, multiple)
    canvases = tuple(
        (int(height), int(width))
        for height, width in (
            of_example[buckets.of_example == b].max(axis=0) for b in range(len(buckets.canvases))
        )
    )
    return Buckets(canvases, buckets.of_example)


def _resized_and_rounded(
    heights: Int[np.ndarray, " N"],
    widths: Int[np.ndarray, " N"],
    shorter_side: int,
    longer_side: int,
    multiple: int,
) -> Int[np.ndarray, "N 2"]:
    """Returns the size of each resized image, rounded up; equal sizes are resized once."""
    originals, original_of = np.unique(
        np.stack([heights, widths], axis=1), axis=0, return_inverse=True
    )
    sides = dict(shorter_side=shorter_side, longer_side=longer_side)
    resized = np.array([resized_hw(int(h), int(w), **sides) for h, w in originals])
    return rounded_up(resized, multiple)[original_of.reshape(-1)]


def _cut_into_runs(
    sizes: Int[np.ndarray, "S 2"], weights: Int[np.ndarray, " S"], count: int
) -> Int[np.ndarray, "C 2"]:
    """Returns the canvases of the best cut of `sizes` into runs; `sizes` are by aspect ratio."""
    order = np.argsort(sizes[:, 1] / sizes[:, 0], kind="stable")
    sizes, weights = sizes[order], weights[order]
    total = len(sizes)
    # cost[i, j]: canvas area of the run i to j - 1, summed over its images.
    cost = np.full((total, total + 1), np.inf)
    for i in range(total):
        areas = np.maximum.accumulate(sizes[i:], axis=0).prod(axis=1)
        cost[i, i + 1 :] = areas * np.cumsum(weights[i:])
    bounds = cheapest_cut(cost, count, allow_fewer=True)
    # Last run first, because the first of canvases with equal areas is taken.
    runs = reversed(list(itertools.pairwise(bounds)))
    return np.array([sizes[start:end].max(axis=0) for start, end in runs])


class PlannedBatch(NamedTuple):
    """One global batch.

    Fields:
      examples: of the dataset.
      flips: True where one is mirrored.
      bucket: of all of them.
      scale: index of it among the run's.
      draws: from [0, 1), by which a scale chooses what it shows of each, see `scales.Jitter`.
      seed: of the augmentations, which they extend by the place in the batch; () in evaluations.
    """

    examples: Int[np.ndarray, " B"]
    flips: Bool[np.ndarray, " B"]
    bucket: int
    scale: int
    draws: Float[np.ndarray, "B 3"]
    seed: tuple[int, ...] = ()


class BatchPlan:
    """The endless order of a training run: `batch(step)` depends on the arguments and `step` only.

    A batch has examples of one bucket. Within a bucket, batches read on from one shuffled pass to
    the next. Pass p has an example of weight w `floor((p+1) w + v) - floor(p w + v)` times (v in
    [0, 1) from the seed, for each example): over many passes exactly w times in the mean, and of
    examples of weight 1 counts of how often they are shown differ by at most one.

    In epoch e, bucket b has `floor((e+1) W_b/B + u_b) - floor(e W_b/B + u_b)` batches (W_b the sum
    of its weights, u_b in [0, 1) from the seed), and the epoch's batches are shuffled. Over many
    epochs each bucket, however small, gets exactly its share; rounding up in every epoch would
    favour rare shapes. Epochs therefore differ by a few steps; their mean length is the sum of all
    weights over B, N / B without weights.

    Only a cache is kept between calls: to resume at a step, ask for that step.
    """

    def __init__(
        self,
        bucket_of_example: Int[np.ndarray, " N"],
        batch_size: int,
        seed: int,
        *,
        flip_probability: float = 0.5,
        num_scales: int = 1,
        weights: Float[np.ndarray, " N"] | None = None,
    ):
        """`num_scales` is how many sizes of images there are, one of which each step draws.

        `weights` are how often each example is shown in an epoch, in the mean; None: once.
        """
        if len(bucket_of_example) == 0:
            raise ValueError("a BatchPlan needs at least one example")
        self.batch_size = batch_size
        self._seed = seed
        self._flip_probability = flip_probability
        self._num_scales = num_scales
        self._buckets = np.unique(bucket_of_example)
        self._members = [np.flatnonzero(bucket_of_example == b) for b in self._buckets]
        weights = np.ones(len(bucket_of_example)) if weights is None else weights
        units = np.maximum(np.rint(weights * _UNIT), 1).astype(np.int64)
        self._units = [units[members] for members in self._members]
        self._totals = [sum(of_bucket.tolist()) for of_bucket in self._units]  # W_b
        self._phases = [
            self._rng(_PHASES, b).integers(_UNIT, size=len(members))
            for b, members in enumerate(self._members)
        ]
        self._offsets = self._rng(_OFFSETS).integers(batch_size, size=len(self._totals)).tolist()
        # Steps come in order, so only the last few passes and epochs are needed again.
        passes = 2 * len(self._totals) + 2
        self._pass = functools.lru_cache(maxsize=passes)(self._shuffled_pass)
        self._shown_before = functools.lru_cache(maxsize=16 * passes)(self._count_before)
        self._schedule = functools.lru_cache(maxsize=4)(self._shuffled_schedule)

    @property
    def steps_per_epoch(self) -> int:
        """Sum of the weights (the number of images) over batch size, rounded up."""
        return -(-sum(self._totals) // (self.batch_size * _UNIT))

    def batch(self, step: int) -> PlannedBatch:
        """Returns the global batch of a step (0, 1, …)."""
        epoch = self._epoch_of(step)
        slot = step - self._steps_before(epoch)
        schedule = self._schedule(epoch)
        b = int(schedule[slot])
        earlier = self._batches_before(b, epoch) + int(np.sum(schedule[:slot] == b))
        examples = self._examples(b, earlier * self.batch_size)
        draws = self._rng(_FLIPS, step).random(self.batch_size)
        scale = self._rng(_SCALES, step).integers(self._num_scales) if self._num_scales > 1 else 0
        flips = draws < self._flip_probability
        views = self._rng(_VIEWS, step).random((self.batch_size, 3))
        seed = self._seed, _AUGMENTATIONS, step
        return PlannedBatch(examples, flips, int(self._buckets[b]), int(scale), views, seed)

    def _examples(self, b: int, start: int) -> Int[np.ndarray, " B"]:
        """Returns a batch of a bucket, after so many examples of its passes."""
        number = self._pass_with(b, start)
        start -= self._shown_before(b, number)
        examples: list[int] = []
        while len(examples) < self.batch_size:
            end = start + self.batch_size - len(examples)
            examples += self._pass(b, number)[start:end].tolist()
            number, start = number + 1, 0
        return np.array(examples, np.int64)

    def _pass_with(self, b: int, position: int) -> int:
        """Returns the pass that has the example at a position of a bucket's passes."""
        # Each example was shown within once of its mean, so that all were within len(units).
        guess, slack = (
            count * _UNIT // self._totals[b] for count in (position, len(self._units[b]))
        )
        low, high = max(0, guess - slack - 2), guess + slack + 3
        before = functools.partial(self._shown_before, b)
        return low + bisect.bisect_right(range(low, high), position, key=before) - 1

    def _count_before(self, b: int, number: int) -> int:
        """Returns how many examples the passes of a bucket before one have."""
        return int(((number * self._units[b] + self._phases[b]) // _UNIT).sum())

    def _batches_before(self, b: int, epoch: int) -> int:
        batch = self.batch_size * _UNIT
        return (epoch * self._totals[b] + self._offsets[b] * _UNIT) // batch

    def _steps_before(self, epoch: int) -> int:
        return sum(self._batches_before(b, epoch) for b in range(len(self._totals)))

    def _epoch_of(self, step: int) -> int:
        # An epoch's first step is within one batch per bucket of its mean, epoch * W / B.
        total, slack = sum(self._totals), len(self._totals) + 1
        batch = self.batch_size * _UNIT
        low = max(0, (step - slack) * batch // total)
        high = (step + slack) * batch // total + 2
        return low + bisect.bisect_right(range(low, high), step, key=self._steps_before) - 1

    def _shuffled_schedule(self, epoch: int) -> Int[np.ndarray, " S"]:
        batches = [
            self._batches_before(b, epoch + 1) - self._batches_before(b, epoch)
            for b in range(len(self._totals))
        ]
        return self._rng(_SCHEDULE, epoch).permutation(np.repeat(np.arange(len(batches)), batches))

    def _shuffled_pass(self, b: int, number: int) -> Int[np.ndarray, " n"]:
        first, last = (
            (n * self._units[b] + self._phases[b]) // _UNIT for n in (number, number + 1)
        )
        return self._rng(_ORDER, b, number).permutation(np.repeat(self._members[b], last - first))

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *what])
