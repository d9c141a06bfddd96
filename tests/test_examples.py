"""The examples in docstrings, run as a reader would: by a Python without the tests' type checks."""

import os
import subprocess
import sys

MODULES = (
    *("boxes", "anchors", "matching", "sampling", "losses", "nms", "roi", "masks"),
    *("detectors.proposals", "detectors.targets", "detectors.box", "evaluation.masks"),
    "evaluation.figures",
)
PROGRAM = """
import doctest, importlib, sys
for name in sys.argv[1:]:
    module = importlib.import_module("rpn_jax." + name)
    failed, tried = doctest.testmod(module)
    assert tried and not failed, name
"""
LISTS = """
import jax
import jax.numpy as jnp
from rpn_jax.detectors.targets import assign_targets
from rpn_jax.ops import boxes, losses, matching, nms, sampling
from rpn_jax.typing import GroundTruth

anchors, none = [[0, 0, 9, 9], [20, 20, 30, 30]], []
assert boxes.pairwise_iou(anchors, none).shape == (2, 0)
assert boxes.encode_boxes(none, none).shape == boxes.clip_boxes(none, 5, 5).shape == (0, 4)
assert matching.match_anchors(anchors, none, none).labels.tolist() == [0, 0]
assert matching.match_anchors(anchors, none, none, gt_ignore=none).labels.tolist() == [0, 0]
targets = assign_targets(
    jax.random.key(0), anchors, GroundTruth(none, none, none), (30, 30), batch_size_per_image=1
)
assert sorted(targets.labels.tolist()) == [-1, 0]
assert not targets.deltas.any()
index, kept = nms.nms(none, none, 0.5, 3)
assert index.tolist() == [0, 0, 0] and not kept.any()
assert sampling.subsample_labels(jax.random.key(0), none).shape == (0,)
assert losses.objectness_loss(none, none) == losses.box_loss(none, none, none) == 0

# In a traced function too, beside arrays that it is given.
jitted = jax.jit(lambda a: (boxes.encode_boxes(a, anchors), boxes.pairwise_iou(anchors, a)))
deltas, iou = jitted(jnp.asarray(anchors, jnp.float32))
assert not deltas.any() and iou.tolist() == [[1, 0], [0, 1]]
"""


def run(program, *argv):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_examples_of_every_piece():
    names = (name if "." in name else f"ops.{name}" for name in MODULES)
    run(PROGRAM, *names)


def test_no_objects_and_plain_lists_have_a_result():
    run(LISTS)
