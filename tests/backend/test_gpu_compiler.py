"""Networks compiled by XLA's GPU compiler, which needs no GPU: only JAX's CUDA plugin.

`jax-cuda13-pjrt` and `nvidia-cublas` beside JAX are enough.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.backend

TARGET = pathlib.Path(__file__).parents[1] / "fixtures" / "h100.txt"
# In a process of its own, because a failed check of the compiler ends the process.
PROGRAM = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rpn_jax.models.rcnn import build_rcnn

try:
    target = pathlib.Path(sys.argv[1]).read_text()
    devices = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=target, topology="1x1x1"
    ).devices
except Exception as error:
    print("no compiler:", type(error).__name__, str(error).splitlines()[0])
    raise SystemExit
network = build_rcnn(backbone="resnet18", norm="group_norm", output_stage="c3", head_channels=128)
images = jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32)
variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), images)

def gradients(variables, images):
    def loss(variables):
        outputs = network.apply(variables, images, train=True)
        return sum((output**2).sum() for output in jax.tree.leaves(outputs))
    return jax.grad(loss)(variables)

place = NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec())
for step in (network.apply, gradients):
    jitted = jax.jit(step, in_shardings=place, out_shardings=place)
    jitted.trace(variables, images).lower().compile()
    print("compiled")
"""


@pytest.mark.skipif(
    not any(
        importlib.util.find_spec("jax_plugins") and importlib.util.find_spec(name)
        for name in ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
    ),
    reason="JAX's CUDA plugin, which brings the compiler, is not installed",
)
def test_the_quick_starts_network_compiles_for_an_h100():
    """A strided 1x1 convolution as slice and product beside a strided 3x3 ended in SIGABRT."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, TARGET],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stdout.startswith("no compiler"):
        pytest.skip(done.stdout.strip())
    assert done.stdout.split() == ["compiled", "compiled"], done.stderr[-2000:]
