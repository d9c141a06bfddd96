import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import ACCELERATORS

from rpn_jax.ops import random
from rpn_jax.ops.matching import Label
from rpn_jax.ops.sampling import subsample_labels

_sample = jax.jit(subsample_labels, static_argnums=(2, 3))


def labels_of(positives, negatives, ignored=0, seed=0):
    labels = np.repeat([1, 0, -1], [positives, negatives, ignored])
    return np.random.default_rng(seed).permutation(labels)


def count(labels):
    return int((labels == Label.POSITIVE).sum()), int((labels == Label.NEGATIVE).sum())


@pytest.mark.parametrize(
    ("have", "num_samples", "fraction", "expected"),
    [
        ((50, 200), 64, 0.5, (32, 32)),
        ((5, 200), 64, 0.5, (5, 59)),  # negatives fill up
        ((50, 10), 64, 0.5, (32, 10)),  # positives do not
        ((50, 200), 9, 0.5, (4, 5)),  # the share of positives is rounded down
        ((50, 200), 64, 0.25, (16, 48)),
        ((50, 200), 64, 0.0, (0, 64)),
        ((50, 200), 64, 1.0, (50, 14)),
        ((0, 0), 64, 0.5, (0, 0)),
        ((3, 2), 1000, 0.5, (3, 2)),  # more than there are anchors
    ],
)
def test_how_many_of_each_are_sampled(have, num_samples, fraction, expected):
    labels = labels_of(*have, ignored=30)
    sampled = np.asarray(_sample(jax.random.key(0), labels, num_samples, fraction))
    assert count(sampled) == expected
    kept = sampled != Label.IGNORE
    np.testing.assert_array_equal(sampled[kept], labels[kept])


def test_no_anchors():
    assert subsample_labels(jax.random.key(0), np.zeros(0, np.int32)).shape == (0,)


def test_the_key_decides_eager_jitted_and_batched():
    labels = labels_of(20, 60)
    keys = jax.random.split(jax.random.key(0), 2)

    def sample(key, labels):
        return subsample_labels(key, labels, 16)

    first, second = (sample(key, labels) for key in keys)
    assert (first != second).any()
    np.testing.assert_array_equal(jax.jit(sample)(keys[0], labels), first)
    batched = jax.jit(jax.vmap(sample))(keys, np.stack([labels, labels]))
    np.testing.assert_array_equal(batched, [first, second])


def test_every_anchor_is_as_likely_as_any_other():
    labels = labels_of(20, 40)
    draws = 4000
    keys = jax.random.split(jax.random.key(3), draws)
    sampled = jax.jit(jax.vmap(lambda key: subsample_labels(key, labels, 10) != Label.IGNORE))(keys)
    frequency = np.asarray(sampled).mean(axis=0)
    # 5 of 20 positives and 5 of 40 negatives; five standard deviations of a binomial mean.
    probability = np.where(labels == Label.POSITIVE, 5 / 20, 5 / 40)
    deviation = np.sqrt(probability * (1 - probability) / draws)
    assert (np.abs(frequency - probability) < 5 * deviation).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(list(Label)), min_size=30, max_size=30), st.integers(0, 2**31 - 1))
def test_padding_changes_nothing(labels, seed):
    labels = np.array(labels, np.int32)
    padded = np.concatenate([labels, np.full(7, Label.IGNORE, np.int32)])
    key = jax.random.key(seed)
    plain = _sample(key, labels, 12, 0.5)
    np.testing.assert_array_equal(_sample(key, padded, 12, 0.5)[:30], plain)
    positives, negatives = count(labels)
    expected = min(positives, 6)
    assert count(plain) == (expected, min(negatives, 12 - expected))
    assert jnp.all((plain == labels) | (plain == Label.IGNORE))


def test_padding_by_whole_rows_changes_nothing():
    labels = labels_of(700, 1500)
    padded = np.pad(labels, (0, 5000), constant_values=Label.IGNORE)
    sampled = _sample(jax.random.key(0), padded, 256, 0.5)
    np.testing.assert_array_equal(sampled[:2200], _sample(jax.random.key(0), labels, 256, 0.5))


def test_the_highest_lots_win():
    labels = labels_of(300, 9000, ignored=4000)
    key = jax.random.key(5)
    words = jax.random.key_data(jax.random.split(key, 6650)).reshape(-1)
    lots = np.asarray(words >> 8, np.int64)
    sampled = np.asarray(_sample(key, labels, 256, 0.5))
    for label in (Label.POSITIVE, Label.NEGATIVE):
        candidates = np.flatnonzero(labels == label)
        winners = candidates[np.argsort(-lots[candidates], kind="stable")[:128]]
        np.testing.assert_array_equal(np.flatnonzero(sampled == label), np.sort(winners))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("form", [random.words, random.words_in_one_operation])
def test_threefry_gives_the_words_of_split_keys(seed, form):
    key = jax.random.key(seed)
    expected = jax.random.key_data(jax.random.split(key, (3, 5)))
    np.testing.assert_array_equal(random.threefry(key, (3, 5)), expected)
    words = jax.jit(form, static_argnums=1)(jax.random.key_data(key), (3, 5))
    np.testing.assert_array_equal(words, expected)


@pytest.mark.parametrize("platform", ACCELERATORS)
def test_an_accelerator_draws_without_numbers_of_64_bits(platform):
    traced = jax.jit(subsample_labels).trace(jax.random.key(0), np.zeros(3000, np.int32))
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "ui64" not in program
    assert "optimization_barrier" not in program


@pytest.mark.parametrize("key", [jax.random.key(7, impl="rbg"), jax.random.PRNGKey(7)])
def test_other_kinds_of_keys_do_as_well(key):
    labels = labels_of(20, 60)
    assert count(_sample(key, labels, 16, 0.5)) == (8, 8)
