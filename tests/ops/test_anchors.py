import jax
import numpy as np
import pytest

from rpn_jax.ops.anchors import cell_anchors, centred_in_image, grid_anchors, inside_image


def test_cell_anchors_have_the_size_and_ratio_asked_for():
    cells = cell_anchors((128, 256), (0.5, 1, 2))
    width, height = (cells[:, 2:] - cells[:, :2]).T
    np.testing.assert_allclose(width / height, [0.5, 0.5, 1, 1, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(width * height), [128, 256] * 3, rtol=1e-6)
    np.testing.assert_array_equal(cells[:, :2], -cells[:, 2:])
    assert cells.dtype == np.float32


def test_cell_anchors_rounded_as_torchvision_rounds_them():
    # AnchorGenerator.generate_anchors((32, 33), (0.5, 1, 2)); its ratios are height / width.
    # 33 / 2 = 16.5 rounds to the even 16.
    expected = [
        [-23, -11, 23, 11],
        [-23, -12, 23, 12],
        [-16, -16, 16, 16],
        [-16, -16, 16, 16],
        [-11, -23, 11, 23],
        [-12, -23, 12, 23],
    ]
    cells = cell_anchors((32, 33), (2, 1, 0.5), rounding="torchvision")
    np.testing.assert_array_equal(cells, expected)


def test_cell_anchors_rounded_as_caffe_give_the_table_of_py_faster_rcnn():
    # The output of its generate_anchors(): the table in that file's header, which is MATLAB's and
    # counts pixels from 1, less 1. Its ratios are height / width.
    expected = [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]
    cells = cell_anchors((128, 256, 512), (2, 1, 0.5), rounding="caffe")
    first_to_last_pixel = grid_anchors(cells, (1, 1), (16, 16)) - np.array([[0, 0, 1, 1]])
    np.testing.assert_array_equal(first_to_last_pixel, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": (0,)}, "must be positive"),
        ({"aspect_ratios": (1, -2)}, "must be positive"),
        ({"sizes": ()}, "must be positive"),
        ({"rounding": "up"}, "'up'"),
    ],
)
def test_cell_anchors_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        cell_anchors(**arguments)


def test_grid_anchors_are_ordered_by_row_column_and_shape():
    cells = np.array([[-1, -2, 1, 2], [-3, -3, 3, 3]], np.float32)
    anchors = grid_anchors(cells, (2, 3), (10, 20))
    assert anchors.shape == (2 * 3 * 2, 4)
    by_place = np.asarray(anchors).reshape(2, 3, 2, 4)
    # Row 1, column 2, shape 0: centre x = (2 + 0.5)·20, y = (1 + 0.5)·10.
    np.testing.assert_array_equal(by_place[1, 2, 0], [50 - 1, 15 - 2, 50 + 1, 15 + 2])
    np.testing.assert_array_equal(by_place[0, 1, 1], [30 - 3, 5 - 3, 30 + 3, 5 + 3])


def test_grid_anchors_from_the_corner():
    cells = np.array([[-1, -2, 1, 2]], np.float32)
    anchors = jax.jit(lambda: grid_anchors(cells, (1, 2), (16, 16), offset=0))()
    np.testing.assert_array_equal(anchors, [[-1, -2, 1, 2], [15, -2, 17, 2]])


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        # Columns x rows of a shape w x h: those with w/2 <= 16c + 8 <= 1000 - w/2, rows likewise.
        ("none", 57 * 26 + 51 * 15 + 0 + 55 * 30 + 47 * 22 + 31 * 6 + 51 * 32 + 40 * 26 + 17 * 15),
        ("caffe", 8151),  # as py-faster-rcnn counts them
    ],
)
def test_the_papers_anchors_inside_an_image_of_600_by_1000(rounding, expected):
    anchors = grid_anchors(cell_anchors(rounding=rounding), (38, 63), (16, 16))
    assert anchors.shape == (38 * 63 * 9, 4)
    assert inside_image(anchors, 600, 1000).sum() == expected


def test_inside_image_counts_the_border_as_inside_and_knows_a_tolerance():
    anchors = np.array([[0, 0, 20, 10], [-1, 0, 20, 10], [0, 0, 20, 11.5]], np.float32)
    np.testing.assert_array_equal(inside_image(anchors, 10, 20), [True, False, False])
    np.testing.assert_array_equal(inside_image(anchors, 10, 20, 1), [True, True, False])
    batched = jax.vmap(inside_image, (None, 0, 0))(anchors, np.array([10.0]), np.array([20.0]))
    np.testing.assert_array_equal(batched[0], [True, False, False])


def test_centred_in_image():
    centres = np.array([[0, 0], [20, 10], [20.5, 5], [5, 10.5], [-0.5, 5]], np.float32)
    anchors = np.concatenate([centres - 50, centres + 50], axis=1)
    expected = [True, True, False, False, False]
    np.testing.assert_array_equal(centred_in_image(anchors, 10, 20), expected)
