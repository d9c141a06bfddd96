import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpn_jax.data.plan import BatchPlan, choose_buckets
from rpn_jax.data.transforms import resized_hw


def canvas_pixels(buckets):
    areas = np.array([h * w for h, w in buckets.canvases])
    return areas[buckets.of_example].sum()


def test_canvases_of_the_commonest_voc_sizes():
    # At 400/667 these become 400x533, 400x601, 533x400 and 400x400.
    hw = np.array([[375, 500]] * 6 + [[333, 500]] * 3 + [[500, 375]] * 2 + [[500, 500]])
    buckets = choose_buckets(hw[:, 0], hw[:, 1], shorter_side=400, longer_side=667)
    assert set(buckets.canvases) == {(400, 400), (544, 400), (400, 544), (400, 608)}
    assert buckets.canvases[buckets.of_example[0]] == (400, 544)
    assert buckets.canvases[buckets.of_example[-1]] == (400, 400)


def test_one_size_needs_one_canvas():
    sizes = np.full(5, 128)
    buckets = choose_buckets(sizes, sizes, shorter_side=128, longer_side=128)
    assert buckets.canvases == ((128, 128),)
    np.testing.assert_array_equal(buckets.of_example, np.zeros(5))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(20, 900), st.integers(20, 900)), min_size=1, max_size=30),
    st.integers(1, 5),
)
def test_every_image_fits_its_canvas_and_every_canvas_is_used(sizes, count):
    heights, widths = np.array(sizes).T
    sides = dict(shorter_side=100, longer_side=180)
    buckets = choose_buckets(heights, widths, count=count, **sides)
    assert len(buckets.canvases) <= count
    assert set(buckets.of_example.tolist()) == set(range(len(buckets.canvases)))
    for (height, width), b in zip(sizes, buckets.of_example, strict=True):
        assert all(np.array(resized_hw(height, width, **sides)) <= buckets.canvases[b])
    assert all(side % 16 == 0 for canvas in buckets.canvases for side in canvas)
    fewer = choose_buckets(heights, widths, count=1, **sides)
    assert canvas_pixels(buckets) <= canvas_pixels(fewer)


def test_the_cut_is_the_best_of_all_cuts():
    rng = np.random.default_rng(0)
    for _ in range(10):
        ratios = np.sort(rng.uniform(0.4, 2.5, 7))
        sizes = np.stack([np.full(7, 1000), 1000 * ratios], axis=1).astype(int)
        sides = dict(shorter_side=160, longer_side=400)
        buckets = choose_buckets(*sizes.T, count=3, multiple=16, **sides)
        rounded = np.array([resized_hw(int(h), int(w), **sides) for h, w in sizes])
        rounded = -(-rounded // 16) * 16
        best = min(
            sum(
                np.prod(rounded[i:j].max(axis=0)) * (j - i)
                for i, j in itertools.pairwise((0, *cuts, 7))
                if j > i
            )
            for cuts in itertools.combinations_with_replacement(range(8), 2)
        )
        assert canvas_pixels(buckets) <= best


BUCKETS = np.array([0] * 13 + [1] * 5 + [2])


def shown(plan, steps):
    return np.concatenate([plan.batch(step).examples for step in steps])


def test_a_batch_depends_on_seed_and_step_only():
    forwards, backwards = BatchPlan(BUCKETS, 4, seed=3), BatchPlan(BUCKETS, 4, seed=3)
    expected = [forwards.batch(step) for step in range(60)]
    for step in reversed(range(60)):
        batch = backwards.batch(step)
        np.testing.assert_array_equal(batch.examples, expected[step].examples)
        np.testing.assert_array_equal(batch.flips, expected[step].flips)
        assert batch.bucket == expected[step].bucket
    other = BatchPlan(BUCKETS, 4, seed=4)
    assert (shown(other, range(60)) != shown(forwards, range(60))).any()


def test_a_batch_is_of_one_bucket():
    plan = BatchPlan(BUCKETS, 4, seed=0)
    for step in range(40):
        batch = plan.batch(step)
        assert (BUCKETS[batch.examples] == batch.bucket).all()


@pytest.mark.parametrize("batch_size", [1, 3, 8, 32])
def test_images_of_a_bucket_are_shown_equally_often_to_within_one(batch_size):
    plan = BatchPlan(BUCKETS, batch_size, seed=1)
    counts = np.zeros(len(BUCKETS), int)
    for step in range(50):
        np.add.at(counts, plan.batch(step).examples, 1)
        for bucket in range(3):
            assert np.ptp(counts[bucket == BUCKETS]) <= 1


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_over_many_epochs_every_bucket_has_its_share(batch_size):
    plan = BatchPlan(BUCKETS, batch_size, seed=1)
    epochs = 64
    steps = epochs * len(BUCKETS) // batch_size
    counts = np.bincount(shown(plan, range(steps)), minlength=len(BUCKETS))
    for bucket in range(3):
        size = (bucket == BUCKETS).sum()
        # Each bucket is within a batch of its share at the end of an epoch; within it, by as many
        # batches as an epoch can give to the others.
        slack = 3 * batch_size + len(BUCKETS)
        assert abs(counts[bucket == BUCKETS].sum() - epochs * size) <= slack


def test_without_buckets_an_epoch_is_a_permutation():
    plan = BatchPlan(np.zeros(12, int), 4, seed=0)
    assert plan.steps_per_epoch == 3
    for epoch in range(4):
        examples = shown(plan, range(3 * epoch, 3 * epoch + 3))
        np.testing.assert_array_equal(np.sort(examples), np.arange(12))
    assert (shown(plan, range(3)) != shown(plan, range(3, 6))).any()


def test_a_batch_may_be_larger_than_the_dataset():
    plan = BatchPlan(np.zeros(3, int), 8, seed=0)
    assert plan.steps_per_epoch == 1
    for step in range(20):
        counts = np.bincount(plan.batch(step).examples, minlength=3)
        assert counts.sum() == 8
        assert counts.min() >= 2


def test_a_far_step_is_found_at_once():
    plan = BatchPlan(BUCKETS, 4, seed=0)
    assert plan.batch(10**9).examples.shape == (4,)
    # As many steps as examples are a whole number of mean epochs, so shares still hold there.
    counts = np.bincount(shown(plan, range(10**9, 10**9 + 190)), minlength=19)
    assert abs(counts.sum() / 19 - 40) < 1e-9
    assert counts.min() >= 30


def test_flips_follow_their_probability():
    flips = [BatchPlan(BUCKETS, 50, 0).batch(step).flips for step in range(40)]
    assert 0.45 < np.mean(flips) < 0.55
    assert not BatchPlan(BUCKETS, 50, 0, flip_probability=0.0).batch(0).flips.any()
    assert BatchPlan(BUCKETS, 50, 0, flip_probability=1.0).batch(0).flips.all()


def test_no_examples_make_no_plan():
    with pytest.raises(ValueError, match="at least one example"):
        BatchPlan(np.zeros(0, int), 4, seed=0)


def test_weights_of_one_change_nothing():
    plain, weighted = BatchPlan(BUCKETS, 4, seed=3), BatchPlan(BUCKETS, 4, 3, weights=np.ones(19))
    for step in range(60):
        for one, other in zip(plain.batch(step), weighted.batch(step), strict=True):
            np.testing.assert_array_equal(one, other)


WEIGHTS = np.array([1.0, 2.0, 0.25, 1.5, 3.7] * 3 + [1.0] * 4)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_an_example_is_shown_in_proportion_to_its_weight(batch_size):
    """After so many examples of its bucket, within one of its share, and a pass at most."""
    plan = BatchPlan(BUCKETS, batch_size, seed=7, weights=WEIGHTS)
    counts = np.zeros(len(BUCKETS), int)
    for step in range(600):
        batch = plan.batch(step)
        assert (BUCKETS[batch.examples] == batch.bucket).all()
        np.add.at(counts, batch.examples, 1)
    for bucket in range(3):
        members = bucket == BUCKETS
        passes = counts[members].sum() / WEIGHTS[members].sum()
        assert (np.abs(counts[members] - passes * WEIGHTS[members]) < WEIGHTS[members] + 2).all()
    shares = [WEIGHTS[bucket == BUCKETS].sum() / WEIGHTS.sum() for bucket in range(3)]
    found = [counts[bucket == BUCKETS].sum() / counts.sum() for bucket in range(3)]
    np.testing.assert_allclose(found, shares, atol=0.03)
    assert plan.steps_per_epoch == np.ceil(WEIGHTS.sum() / batch_size)


def slow_passes(plan, bucket, weights, count):
    """The first examples of a bucket's passes, pass by pass: the definition of the class."""
    members, examples, number = np.flatnonzero(bucket == BUCKETS), [], 0
    phases = plan._phases[bucket] / 2**20
    while len(examples) < count:
        times = [
            int((number + 1) * w + v) - int(number * w + v)
            for w, v in zip(weights[members], phases, strict=True)
        ]
        every = np.array([m for m, t in zip(members, times, strict=True) for _ in range(t)], int)
        examples += plan._rng(2, bucket, number).permutation(every).tolist()
        number += 1
    return examples[:count]


def test_passes_with_weights_are_those_of_the_definition():
    weights = np.round(WEIGHTS * 2**20) / 2**20
    plan = BatchPlan(BUCKETS, 4, seed=2, weights=weights)
    read = {0: [], 1: [], 2: []}
    for step in range(120):
        batch = plan.batch(step)
        read[batch.bucket] += batch.examples.tolist()
    for bucket, examples in read.items():
        assert len(examples) > 8
        assert examples == slow_passes(plan, bucket, weights, len(examples))
    again = BatchPlan(BUCKETS, 4, seed=2, weights=weights)
    for step in (119, 3, 77):  # whatever was asked for before
        np.testing.assert_array_equal(again.batch(step).examples, plan.batch(step).examples)
    assert plan.batch(10**9).examples.shape == (4,)


def test_small_weights_leave_whole_passes_empty():
    plan = BatchPlan(np.zeros(3, int), 2, seed=0, weights=np.array([0.01, 0.01, 0.02]))
    counts = np.bincount(shown(plan, range(200)), minlength=3)
    np.testing.assert_allclose(counts, [100, 100, 200], atol=2)
