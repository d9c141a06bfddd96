"""Determinism: the XLA flags that make the same program give the same bits."""

import os

from jax._src import xla_bridge  # JAX says only there whether it has started
from jax.extend import backend
from ml_collections import ConfigDict

from rpn_jax.errors import UserError

# This flag of XLA implies all others on determinism: every operation adds in a fixed order, and
# kernels are not chosen by timing, which varies from run to run.
_FLAG = "--xla_gpu_deterministic_ops"


def apply_determinism(config: ConfigDict) -> None:
    """Adds to the environment what `config.deterministic` asks for; must come before XLA starts.

    A value that the user has set in XLA_FLAGS stays. Only GPUs need the flag: it changes nothing on
    CPUs and TPUs.

    Raises:
        UserError: XLA has already started, on GPUs and without the flag.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if not config.deterministic or _FLAG in flags:
        return
    if xla_bridge.backends_are_initialized() and backend.get_backend().platform == "gpu":
        raise UserError(
            "config.deterministic: JAX has already started to use the GPUs; set "
            f"XLA_FLAGS={_FLAG}=true in the environment, or give the config before anything is "
            "computed"
        )
    os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=true".strip()
