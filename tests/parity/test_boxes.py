import numpy as np
import pytest
from peer_cases import BOX_WEIGHTS, coded_boxes, peer_answers

from rpn_jax.ops.boxes import decode_boxes, encode_boxes

ANSWERS = peer_answers("boxes")


@pytest.mark.parametrize("name", BOX_WEIGHTS)
def test_deltas_and_boxes_are_torchvisions(name):
    anchors, boxes, deltas = coded_boxes()
    weights = BOX_WEIGHTS[name]
    np.testing.assert_allclose(
        encode_boxes(anchors, boxes, weights), ANSWERS[f"{name}/deltas"], rtol=1e-5, atol=1e-6
    )
    # Some boxes reach 500,000 px, where float32 is 0.03 px fine: hence the relative tolerance.
    np.testing.assert_allclose(
        decode_boxes(anchors, deltas * np.float32(weights), weights),
        ANSWERS[f"{name}/boxes"],
        rtol=1e-6,
        atol=1e-4,
    )


def test_a_box_without_width_is_finite_here_alone():
    anchors, boxes, _ = coded_boxes()
    theirs = ANSWERS["flat/deltas"]
    assert theirs[0, 2] == -np.inf
    ours = np.asarray(encode_boxes(anchors[:1], boxes[:1, [0, 1, 0, 3]], BOX_WEIGHTS["weighted"]))
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours[:, [0, 1, 3]], theirs[:, [0, 1, 3]], rtol=1e-5)
