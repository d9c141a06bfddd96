import numpy as np
import pytest

from rpn_jax.data.annotations.segmentations import Mask
from rpn_jax.data.datasets.own import check_source
from rpn_jax.data.datasets.source import Example, Source
from rpn_jax.errors import UserError

EXAMPLE = Example(
    image=b"\x89PNG",
    filename="a.png",
    image_id=1,
    boxes=np.array([[0, 0, 4, 4], [1, 1, 9, 9]]),
    labels=[0, 1],
    ignore=[False, False],
    areas=None,
    declared_hw=None,
)
SOURCE = Source(("cat", "dog"), {"train": [lambda: EXAMPLE]}, "1")


def read(source=SOURCE, **changed):
    readers = [lambda: EXAMPLE._replace(**changed)]
    source = source._replace(splits={"train": readers})
    (reader,) = check_source("config.data.dataset", "mine:read", source).splits["train"]
    return reader()


def test_lists_become_arrays():
    example = read(areas=[16, None])
    assert example.boxes.dtype == np.float64
    assert example.labels.tolist() == [0, 1]
    assert example.ignore.tolist() == [False, False]
    assert example.areas[0] == 16
    assert np.isnan(example.areas[1])  # the box's own


def test_an_image_without_objects():
    example = read(boxes=[], labels=[], ignore=[])
    assert example.boxes.shape == (0, 4)
    assert example.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"filename": 3}, "3: Example.filename is 3; correct mine:read"),
        ({"image": "a.png"}, "Example.image is 'a.png'"),
        ({"image_id": "a"}, "Example.image_id is 'a'"),
        ({"boxes": [1, 2, 3]}, "Example.boxes is no array (n, 4) of x1, y1, x2, y2"),
        ({"boxes": ["a"]}, "Example.boxes is no array (n, 4) of x1, y1, x2, y2"),
        ({"labels": [0, 2]}, "Example.labels must be whole numbers from 0 to 1, the places of"),
        ({"labels": [-1, 0]}, "Example.labels must be whole numbers from 0 to 1, the places of"),
        ({"labels": [0.5, 0]}, "Example.labels must be whole numbers from 0 to 1, the places of"),
        ({"labels": ["cat", "dog"]}, "Example.labels must be whole numbers from 0 to 1"),
        ({"labels": [0]}, "Example.labels has the shape (1,), for 2 boxes"),
        ({"ignore": [True] * 3}, "Example.ignore has the shape (3,), for 2 boxes"),
        ({"areas": [1.0]}, "Example.areas has the shape (1,), for 2 boxes"),
        ({"areas": ["large", "small"]}, "Example.areas is no array of numbers"),
        ({"origins": [("a", "b")]}, "Example.origins has 1 entries, for 2 boxes"),
        ({"read_masks": len}, "Example.read_masks must be None, as Source.has_masks is False"),
    ],
)
def test_an_example_that_is_wrong_is_one_line(changed, line):
    with pytest.raises(UserError) as raised:
        read(**changed)
    assert line in str(raised.value)


def test_masks_are_as_many_as_boxes():
    source = SOURCE._replace(has_masks=True)
    with pytest.raises(UserError, match="Example.read_masks must be a function, as Source.has_ma"):
        read(source)
    masks = [Mask(b"1"), Mask(b"2")]
    assert read(source, read_masks=lambda height, width: masks).read_masks(2, 2) == masks
    with pytest.raises(UserError, match="must return a Mask for each of the 2 boxes; correct mine"):
        read(source, read_masks=lambda height, width: masks[:1]).read_masks(2, 2)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"class_names": ()}, "gives class_names=(), which must be different texts"),
        ({"class_names": ("cat", "cat")}, "which must be different texts"),
        ({"class_names": "cat"}, "which must be different texts"),
        ({"splits": {}}, "gives as splits no mapping from names to functions"),
        ({"splits": {"train": 3}}, "gives as split 'train' no list of functions"),
        ({"splits": {"train": [EXAMPLE]}}, "gives in split 'train' what is no function"),
    ],
)
def test_a_source_that_is_wrong_is_one_line(changed, line):
    with pytest.raises(UserError) as raised:
        check_source("config.data.dataset", "mine:read", SOURCE._replace(**changed))
    assert str(raised.value).startswith("config.data.dataset=mine:read: ")
    assert line in str(raised.value)


def test_what_a_reader_raises_is_one_line_with_its_place():
    def fails():
        return {}["width"]

    source = SOURCE._replace(splits={"train": [fails, lambda: None]})
    first, second = check_source("config.data.dataset", "mine:read", source).splits["train"]
    with pytest.raises(UserError, match=r"mine:read: test_own.py, line \d+: KeyError: 'width'"):
        first()
    with pytest.raises(UserError, match="mine:read: reads no Example, but NoneType"):
        second()
