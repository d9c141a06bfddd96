"""The compilers for accelerators that are not here: plugins of JAX, which need no device."""

import importlib.util
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from rpn_jax.compiling.chips import Topology
from rpn_jax.compiling.gpu_targets import CARDS, target_text
from rpn_jax.errors import UserError


class Compiler(NamedTuple):
    """What compiles for one of JAX's platforms."""

    device: str
    modules: tuple[str, ...]  # one of them must be installed
    extra: str  # of this package, which brings it
    options: Callable[[Topology], dict[str, Any]]  # of `topologies.get_topology_desc`


def _of_slice(topology: Topology) -> dict[str, Any]:
    options: dict[str, Any] = {"topology_name": topology.name}
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if topology.kind == "v4":
        # JAX sees the two cores of a real chip as one device.
        options["chip_config_name"] = "megacore"
    return options


def _of_hosts(topology: Topology) -> dict[str, Any]:
    hosts, cards = topology.sides
    return {
        "topology_name": topology.kind,
        "target_config": target_text(CARDS[topology.kind]),
        "topology": f"1x{hosts}x{cards}",
    }


COMPILERS = {
    "tpu": Compiler("TPU", ("libtpu",), "tpu", _of_slice),
    "cuda": Compiler(
        "GPU", ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12"), "cuda", _of_hosts
    ),
}


def _is_installed(module: str) -> bool:
    """Whether a module is there, of a package that may be missing too."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def check_compiler(topology: Topology) -> None:
    """Raises a `UserError` unless the compiler for the topology's chips is installed."""
    compiler = COMPILERS[topology.chip.platform]
    if not any(map(_is_installed, compiler.modules)):
        raise UserError(
            f"compile: the compiler for {compiler.device}s is not installed; pip install "
            f"'rpn_jax[{compiler.extra}]' brings it (no {compiler.device} is needed)"
        )


def described_devices(topology: Topology) -> list[jax.Device]:
    """Returns a device for each chip, for compilation only.

    Raises:
        UserError: the installed compiler does not know the topology, or cannot be loaded.
    """
    platform = topology.chip.platform
    compiler = COMPILERS[platform]
    try:
        described = topologies.get_topology_desc(
            platform=platform, **compiler.options(topology)
        ).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"--topology={topology.name}: {str(error).splitlines()[0]}; give one that the "
            f"installed compiler knows, or renew it: pip install 'rpn_jax[{compiler.extra}]'"
        ) from error
    if len(described) != math.prod(topology.sides):
        raise UserError(
            f"--topology={topology.name}: the compiler describes {len(described)} devices of it; "
            f"renew it: pip install 'rpn_jax[{compiler.extra}]'"
        )
    return list(described)
