"""What the command line sets before JAX starts."""

import os
import subprocess
import sys

import pytest

from rpn_jax.__main__ import set_cpu_flags

PROGRAM = """
from rpn_jax.__main__ import set_cpu_flags
set_cpu_flags()
import jax, jax.numpy as jnp
def squared(x):
    return jnp.square(jax.lax.optimization_barrier(2 * x + 1))
print(jax.jit(squared).lower(jnp.ones((512, 512))).compile().as_text().count(" fusion("))
"""


@pytest.mark.parametrize(("flags", "fusions"), [("", 2), ("--xla_disable_hlo_passes=none", 1)])
def test_a_cpu_heeds_barriers(flags, fusions):
    """They keep what came before them from being computed again for each element behind them."""
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == fusions


def test_flags_for_cpus_spare_accelerators_and_what_the_user_chose(monkeypatch):
    chosen = "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_DEFAULT"
    monkeypatch.setenv("XLA_FLAGS", chosen)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == chosen
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    set_cpu_flags()
    set_cpu_flags()
    assert os.environ["XLA_FLAGS"].split()[0] == chosen
    assert os.environ["XLA_FLAGS"].count("--") == 2
