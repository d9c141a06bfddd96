import jax
import numpy as np
import pytest
from training.small import small_batch, small_config

from rpn_jax.errors import UserError
from rpn_jax.training.build import build_detector, build_network
from rpn_jax.training.features import FeatureCache, check_features

FROZEN = "--config.model.frozen_stages=2"


@pytest.fixture
def cache_of(tmp_path, random_variables):
    """A function from flags to a config, its network, variables and cache."""

    def build(*flags, seed=0):
        config = small_config(
            FROZEN,
            "--config.data.cache_features=true",
            f"--config.data.data_dir={tmp_path}",
            *flags,
        )
        network = build_network(config)
        variables = random_variables(network, np.zeros((1, 64, 64, 3), np.float32))
        variables = jax.tree.map(lambda leaf: leaf + np.float32(seed), variables)
        return config, network, variables, FeatureCache(config, network, variables)

    return build


def stored(folder):
    return sorted(folder.rglob("*.npz"))


def test_the_head_says_of_kept_features_what_the_network_says_of_the_images(cache_of):
    config, network, variables, cache = cache_of()
    plain = small_batch(2)
    batch = cache.add(plain)
    assert [level.shape for level in batch.features] == [(2, 12, 16, 64)]
    run = jax.jit(lambda *args, **kwargs: detector.look(*args, **kwargs)[:2])
    detector = build_detector(config)
    expected = run(variables, plain.images, plain.image_hw)
    images = np.zeros_like(plain.images)  # which play no part
    actual = run(variables, images, plain.image_hw, features=batch.features)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected
    )


def test_features_are_computed_once_and_read_to_the_bit(cache_of, tmp_path, monkeypatch):
    _, _, _, cache = cache_of()
    batch = small_batch(3)
    two = jax.tree.map(lambda x: x[:2], batch)
    first = cache.add(two)
    files = stored(tmp_path)
    assert len(files) == 2
    *_, again = cache_of()
    monkeypatch.setattr(again, "_features_of", None)
    np.testing.assert_array_equal(again.add(two).features, first.features)
    cache.add(batch)
    assert len(stored(tmp_path)) == 3
    assert set(files) < set(stored(tmp_path))


def test_other_weights_pixels_or_extents_have_files_of_their_own(cache_of, tmp_path):
    batch = small_batch(1)
    *_, cache = cache_of()
    cache.add(batch)
    cache.add(batch._replace(images=batch.images[:, :, ::-1]))
    cache.add(batch._replace(image_hw=batch.image_hw - 16))
    assert len(stored(tmp_path)) == 3
    *_, other = cache_of(seed=1)
    other.add(batch)
    assert len(stored(tmp_path)) == 4
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_without_the_field_nothing_is_kept(cache_of, tmp_path):
    *_, cache = cache_of("--config.data.cache_features=false")
    assert cache.add(small_batch(1)).features is None
    assert stored(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(cache_of, tmp_path):
    *_, cache = cache_of()
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(UserError, match=rf"{tmp_path}/features/.*Not a directory; make room"):
        cache.add(small_batch(1))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--config.model.frozen_stages=1",
            "1 stages of .*; freeze all: --config.model.frozen_stages=2$",
        ),
        ("--config.model.norm=sync_batch_norm", "statistics of sync_batch_norm"),
        ("--config.data.jitter.scales=(0.1,2.0)", "no image looks the same twice"),
        ("--config.data.augmentations=('color',)", "with config.data.augmentations no image looks"),
    ],
)
def test_a_backbone_that_changes_is_refused(flag, message):
    config = small_config(FROZEN, "--config.data.cache_features=true", flag)
    with pytest.raises(UserError, match=message):
        check_features(config, build_network(config))
