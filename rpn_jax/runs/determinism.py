"""The same bits from the same program: what XLA must be told before it starts."""

import os

from jax._src import xla_bridge  # the only place where JAX says whether it has started
from jax.extend import backend
from ml_collections import ConfigDict

from rpn_jax.errors import UserError

# Of XLA's flags the one that has all others in it: no operation may add in an order that changes
# from run to run, and kernels are not chosen by measuring them, which chance decides.
_FLAG = "--xla_gpu_deterministic_ops"


def apply_determinism(config: ConfigDict) -> None:
    """Adds to the environment what `config.deterministic` asks for; must come before XLA starts.

    What the user has set of it in XLA_FLAGS stays as it is. Only GPUs need it: on CPUs and TPUs it
    changes nothing.

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
