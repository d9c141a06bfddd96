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

# In processes of their own, because a failed check of the compiler ends the process.
DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rpn_jax.compiling.chips import parse_topology
from rpn_jax.compiling.compilers import described_devices
from rpn_jax.errors import UserError

try:
    devices = described_devices(parse_topology("h100:1"))
except UserError as error:
    print("no compiler:", error)
    raise SystemExit
place = NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec())

def compiled(function, *arguments):
    jitted = jax.jit(function, in_shardings=place, out_shardings=place)
    return jitted.trace(*arguments).lower().compile()
"""
NETWORK = """
from rpn_jax.models.rcnn import build_rcnn

network = build_rcnn(backbone="resnet18", norm="group_norm", output_stage="c3", head_channels=128)
images = jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32)
variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), images)

def gradients(variables, images):
    def loss(variables):
        outputs = network.apply(variables, images, train=True)
        return sum((output**2).sum() for output in jax.tree.leaves(outputs))
    return jax.grad(loss)(variables)

for step in (network.apply, gradients):
    compiled(step, variables, images)
    print("compiled")
"""
REGIONS = """
import re
from rpn_jax.ops.roi import roi_align

def loss(features, boxes):
    return (roi_align(features, boxes, size=7, scale=1 / 16) ** 2).sum()

features = jax.ShapeDtypeStruct((38, 50, 64), jnp.float32)
program = compiled(jax.grad(loss), features, np.zeros((128, 4), np.float32)).as_text()
for scatter in re.findall(r" scatter\\(.*", program):
    print("ordered" if "unique_indices=true" in scatter else "in any order")
"""

# A train step for two cards, and a prediction.
DETECTOR = """
import sys
sys.path[:0] = {paths!r}
from training import small
from rpn_jax.compiling.step_report import compile_report
from rpn_jax.training.build import build_detector
from rpn_jax.training.predict_steps import make_predict_step

config = small.{config}("--config.batch_size=2", "--config.model.dtype=bfloat16")
report = compile_report(config, "h100:1x2")
summed = sum(collective["gradient_bytes"] for collective in report["collectives"])
print("trained", summed - report["trainable_bytes"], len(report["kernels"]) > 4)

detector = build_detector(config)
images = jax.ShapeDtypeStruct((2, 48, 64, 3), jnp.uint8)
variables = jax.eval_shape(
    lambda: detector.network.init(jax.random.key(0), np.zeros((1, 48, 64, 3), np.float32))
)
sizes = jax.ShapeDtypeStruct((2, 2), jnp.float32)
compiled(make_predict_step(detector), variables, (images, sizes))
print("predicted")
"""


def printed(program, flags=""):
    """What a program prints; skips the test if no compiler is there."""
    done = subprocess.run(
        [sys.executable, "-c", DEVICES + program],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stdout.startswith("no compiler"):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


has_plugin = pytest.mark.skipif(
    not any(
        importlib.util.find_spec("jax_plugins") and importlib.util.find_spec(name)
        for name in ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
    ),
    reason="JAX's CUDA plugin, which brings the compiler, is not installed",
)


@has_plugin
def test_the_quick_starts_network_compiles_for_an_h100():
    """A strided 1x1 convolution as slice and product beside a strided 3x3 ended in SIGABRT."""
    assert printed(NETWORK) == ["compiled", "compiled"]


@has_plugin
@pytest.mark.parametrize("is_deterministic", [False, True])
def test_the_flag_puts_the_sums_of_regions_gradients_in_order(is_deterministic):
    flags = "--xla_gpu_deterministic_ops=true" if is_deterministic else ""
    assert printed(REGIONS, flags) == ["ordered" if is_deterministic else "in any order"]


@has_plugin
@pytest.mark.parametrize("config", ["small_config", "small_detector_config", "small_mask_config"])
def test_every_detector_compiles_for_h100s_and_sums_each_gradient_once(config):
    tests = pathlib.Path(__file__).parents[1]
    program = DETECTOR.format(config=config, paths=[str(tests), str(tests / "helpers")])
    assert printed(program) == ["trained 0 True", "predicted"]
