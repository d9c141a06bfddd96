import os
import types

import pytest

from rpn_jax.errors import UserError
from rpn_jax.training import determinism
from rpn_jax.training.config import apply_overrides, default_config
from rpn_jax.training.determinism import apply_determinism

DETERMINISTIC = apply_overrides(default_config(), ["--config.deterministic=true"])
FLAG = "--xla_gpu_deterministic_ops=true"


@pytest.fixture
def starting(monkeypatch):
    """A JAX that has not started yet, with the XLA_FLAGS of the argument."""

    def start(flags):
        monkeypatch.setattr(determinism.xla_bridge, "backends_are_initialized", lambda: False)
        monkeypatch.setenv("XLA_FLAGS", flags)

    return start


def test_the_flag_is_added_to_those_of_the_user(starting):
    starting("--xla_dump_to=/tmp/a --xla_x=1")
    apply_determinism(DETERMINISTIC)
    apply_determinism(DETERMINISTIC)
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=/tmp/a --xla_x=1 {FLAG}"


@pytest.mark.parametrize("flags", ["", "--xla_gpu_deterministic_ops=false"])
def test_nothing_is_added_unasked_or_against_the_user(starting, flags):
    starting(flags)
    apply_determinism(DETERMINISTIC if flags else default_config())
    assert os.environ["XLA_FLAGS"] == flags


@pytest.mark.parametrize(("platform", "fails"), [("gpu", True), ("cpu", False), ("tpu", False)])
def test_too_late_is_an_error_on_gpus_alone(monkeypatch, platform, fails):
    backend = types.SimpleNamespace(platform=platform)
    monkeypatch.setattr(determinism.backend, "get_backend", lambda: backend)
    monkeypatch.setattr(determinism.xla_bridge, "backends_are_initialized", lambda: True)
    monkeypatch.setenv("XLA_FLAGS", "")
    if fails:
        with pytest.raises(UserError, match=rf"already started.*set XLA_FLAGS={FLAG}"):
            apply_determinism(DETERMINISTIC)
    else:
        apply_determinism(DETERMINISTIC)
    monkeypatch.setenv("XLA_FLAGS", FLAG)
    apply_determinism(DETERMINISTIC)  # the user has seen to it
