import numpy as np
import pytest

from rpn_jax.weights.class_names import class_order
from rpn_jax.weights.loading import reorder_classes


@pytest.mark.parametrize(
    ("ours", "theirs", "order"),
    [
        (("cow", "cat", "dog"), ("cat", "dog", "cow"), [2, 0, 1]),
        (("cat", "dog"), ("cat", "dog"), [0, 1]),
        (("cat", "dog"), ("class 1", "class 2"), [0, 1]),  # whose names are not known
        (("cat", "dog"), ("cat", "cow"), None),
        (("cat", "dog"), ("cat", "dog", "cow"), None),
    ],
)
def test_classes_are_found_by_their_names(ours, theirs, order):
    assert class_order(ours, theirs) == order


def test_the_last_layers_in_another_order_of_classes():
    order = class_order(("cow", "cat", "dog"), ("cat", "dog", "cow"))
    bias = np.arange(4)  # of background, cat, dog and cow
    for layer in ("scores", "logits"):
        assert reorder_classes(layer, bias, order).tolist() == [0, 3, 1, 2]
    deltas = np.arange(16)[None]
    moved = [0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7, 8, 9, 10, 11]
    assert reorder_classes("deltas", deltas, order).tolist() == [moved]
    assert reorder_classes("deltas", np.arange(4), order).tolist() == [0, 1, 2, 3]  # one for all
