import jax
import numpy as np
import peer_cases
import pytest

from rpn_jax.detectors.proposals import propose
from rpn_jax.ops.anchors import cell_anchors, grid_anchors

ANSWERS = peer_cases.peer_answers("proposals")

_propose = jax.jit(
    propose, static_argnames=("pre_nms_top_n", "post_nms_top_n", "min_size", "keep_padding")
)


def anchors_of(name):
    height, width = peer_cases.PROPOSAL_CANVAS[name]
    ratios = [1 / ratio for ratio in peer_cases.TORCHVISION_RATIOS]
    return [
        np.asarray(
            grid_anchors(
                cell_anchors(sizes, ratios, rounding="torchvision"),
                (rows, columns),
                (height // rows, width // columns),
                offset=0,
            )
        )
        for sizes, (rows, columns) in zip(
            peer_cases.PROPOSAL_SIZES[name], peer_cases.PROPOSAL_GRIDS[name], strict=True
        )
    ]


@pytest.mark.parametrize("name", peer_cases.PROPOSAL_COUNTS)
def test_proposals_are_torchvisions(name):
    logits, deltas = peer_cases.head_outputs(name)
    pre_nms_top_n, post_nms_top_n = peer_cases.PROPOSAL_COUNTS[name]
    proposals = _propose(
        logits,
        deltas,
        anchors_of(name),
        np.float32(peer_cases.PROPOSAL_IMAGE[name]),
        pre_nms_top_n=pre_nms_top_n,
        post_nms_top_n=post_nms_top_n,
        min_size=peer_cases.PROPOSAL_MIN_SIZES[name],
        keep_padding=True,
    )
    boxes, scores = ANSWERS[f"{name}/boxes"], ANSWERS[f"{name}/scores"]
    count = int(proposals.valid.sum())
    assert count == len(boxes) > 100
    np.testing.assert_allclose(proposals.scores[:count], scores, rtol=1e-5)
    np.testing.assert_allclose(proposals.boxes[:count], boxes, atol=1e-2)


def test_an_infinite_delta_proposes_there_alone_and_a_nan_nowhere():
    arguments = peer_cases.head_outputs_not_finite()
    expected = ANSWERS["not_finite/boxes"]
    np.testing.assert_array_equal(expected, [[0, 0, 100, 100], [50, 50, 60, 60]])
    logits, deltas, anchors = ([x] for x in arguments)
    proposals = _propose(
        logits, deltas, anchors, np.float32([100, 100]), pre_nms_top_n=4, post_nms_top_n=4
    )
    np.testing.assert_array_equal(proposals.valid, [True, False, False, False])
    np.testing.assert_array_equal(proposals.boxes[0], expected[1])
