import numpy as np
import pytest
from peer_cases import ANCHORS, TORCHVISION_RATIOS, peer_answers

from rpn_jax.ops.anchors import cell_anchors, grid_anchors

ANSWERS = peer_answers("anchors")
LEVELS = [(name, level) for name, case in ANCHORS.items() for level in range(len(case[0]))]


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_anchors_are_torchvisions(name, level):
    sizes, (height, width), grids = ANCHORS[name]
    # What is height / width there is width / height here.
    ratios = [1 / ratio for ratio in TORCHVISION_RATIOS]
    cells = cell_anchors(sizes[level], ratios, rounding="torchvision")
    np.testing.assert_array_equal(cells, ANSWERS[f"{name}/cells{level}"])
    rows, columns = grids[level]
    anchors = grid_anchors(cells, (rows, columns), (height // rows, width // columns), offset=0)
    np.testing.assert_array_equal(anchors, ANSWERS[f"{name}/anchors{level}"])
