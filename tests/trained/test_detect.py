"""The names of the files that `propose` writes."""

import pathlib

import pytest

from rpn_jax.trained.detect import output_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a.jpg", "y/b.jpg"], ["a", "b"]),
        (["x/a.jpg", "y/a.jpg", "b.jpg"], ["x_a", "y_a", "b"]),
        (["x/a.jpg", "x/a.png"], ["x_a.jpg", "x_a.png"]),
        (["a.jpg", "A.jpg"], ["a_1", "A_2"]),
        (["x/a.jpg", "y/a.jpg", "x_a.jpg"], ["a_1", "y_a", "x_a_3"]),
    ],
)
def test_no_two_images_share_a_name(paths, names):
    found = output_names([pathlib.Path(path) for path in paths])
    assert found == names
