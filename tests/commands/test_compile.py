import importlib.util
import pathlib

import pytest

from rpn_jax.__main__ import main

CONFIG = f"--config={pathlib.Path(__file__).parents[2] / 'configs' / 'shapes.py'}"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """What the command sets for itself is gone after the test."""
    for name in (
        "ALLOW_MULTIPLE_LIBTPU_LOAD",
        "JAX_ENABLE_COMPILATION_CACHE",
        "JAX_PLATFORMS",
        "TPU_ACCELERATOR_TYPE",
        "TPU_SKIP_MDS_QUERY",
        "TPU_WORKER_HOSTNAMES",
    ):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--topology=v9:2x2",), "--topology=v9:2x2: give a chip (v4, v5e, v5p, v6e, a100"),
        (("--topology=v5e:2x2", "--config.batch_size=6"), "config.batch_size=6: the 4 chips of"),
        (("--topology=v5e:2x2", "--config.batch_size=8"), "compile: the compiler for TPUs is not "
         "installed; pip install 'rpn_jax[tpu]' brings it (no TPU is needed)"),
        (("--topology=h100:1x8", "--config.batch_size=8"), "compile: the compiler for GPUs is not "
         "installed; pip install 'rpn_jax[cuda]' brings it (no GPU is needed)"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled(monkeypatch, capsys, flags, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["compile", CONFIG, *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
