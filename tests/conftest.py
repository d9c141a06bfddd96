"""Eight virtual CPU devices, strict rank promotion, and what tests everywhere draw on."""

import gc
import os
import pathlib
import tempfile

FLAGS = os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Tests compile for longer than they compute: with these, for a third of the time.
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One persistent cache for the whole run, pytest's workers and the processes that tests start: the
# same small programs are compiled by many tests. The first process makes it, before its workers.
if "RPN_JAX_TEST_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="rpn_jax_test_cache_")
    os.environ["RPN_JAX_TEST_CACHE"] = _cache.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["RPN_JAX_TEST_CACHE"]

import jax
import numpy as np
import pytest
from folders import CocoFolder, VocFolder

jax.devices()  # begins with the flags above; `main` would add those of the command line
jax.config.update("jax_numpy_rank_promotion", "raise")
# What the processes that a test starts import from: the package that is tested here.
PATHS = [str(pathlib.Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
# What JAX has traced stays, and grows: to go through all of it as often as Python would by itself
# takes a fifth of the time.
gc.set_threshold(700, 10, 1000)


@pytest.fixture(autouse=True)
def _flags_of_this_process(monkeypatch):
    """The processes that a test starts import and compile as this one does.

    `main` adds flags for what it starts, which this JAX, started before, does not heed.
    """
    monkeypatch.setenv("XLA_FLAGS", FLAGS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, PATHS)))


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


@pytest.fixture(scope="session")
def random_variables():
    """A function from a module and its arguments to variables: kernels He-normal, norms neutral.

    Drawn by NumPy: XLA takes seconds to compile the random numbers of an `init`.
    """

    def draw(module, *args):
        generator = np.random.default_rng(0)

        def leaf(path, shape):
            name = path[-1].key
            if name == "kernel":
                deviation = np.sqrt(2 / np.prod(shape.shape[:-1]))
                return generator.normal(scale=deviation, size=shape.shape).astype(shape.dtype)
            return np.full(shape.shape, name in ("scale", "var"), shape.dtype)

        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return draw


@pytest.fixture
def voc(tmp_path):
    return VocFolder(tmp_path / "My VOC")


@pytest.fixture
def coco(tmp_path):
    return CocoFolder(tmp_path / "coco")
