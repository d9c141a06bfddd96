"""Eight virtual CPU devices, strict rank promotion, and where the optional real data lies."""

import os
import pathlib
import tempfile

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from folders import CocoFolder, VocFolder

jax.config.update("jax_numpy_rank_promotion", "raise")
# One persistent cache for the whole run: the same small programs are compiled by many tests.
_cache = tempfile.TemporaryDirectory(prefix="rpn_jax_test_cache_")
jax.config.update("jax_compilation_cache_dir", _cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="session")
def shared_data():
    """A function from a relative path to a file of the optional real data, or a skip."""
    root = os.environ.get("RPN_JAX_TEST_DATA")

    def find(relative):
        if not root:
            pytest.skip("RPN_JAX_TEST_DATA names no folder with the real data sets")
        path = pathlib.Path(root) / relative
        if not path.exists():
            pytest.skip(f"{path} does not exist")
        return path

    return find


@pytest.fixture
def voc(tmp_path):
    return VocFolder(tmp_path / "My VOC")


@pytest.fixture
def coco(tmp_path):
    return CocoFolder(tmp_path / "coco")
