import contextlib
import json

import numpy as np
import pytest

from rpn_jax.data.proposals import Image, read_proposals
from rpn_jax.errors import UserError

IMAGES = [
    Image(70, "p.jpg", 30, 40),
    Image("seven", "q.jpg", 40, 30),
    Image(50, "r.jpg", 20, 20),
]


def row(image_id=70, bbox=(1, 2, 10, 20), score=0.5, **more):
    return {"image_id": image_id, "category_id": 1, "bbox": list(bbox), "score": score, **more}


OTHERS = [row("seven"), row(50, (0, 0, 5, 5))]


@pytest.fixture
def read(tmp_path):
    def read(content, top_n=10):
        file = tmp_path / "proposals.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_proposals(file, IMAGES, top_n, "data val")

    return read


def test_the_best_of_each_image_come_first(read):
    stored = read([row(50, (0, 0, 5, 5)), row(score=0.2), row("seven"), row(score=0.9)])
    boxes, scores = stored.of(0)
    np.testing.assert_allclose(scores, [0.9, 0.2])
    np.testing.assert_array_equal(boxes, [[1, 2, 11, 22]] * 2)  # x1, y1, x2, y2
    np.testing.assert_array_equal(stored.of(2)[0], [[0, 0, 5, 5]])
    assert stored.most == 2
    best = read([*OTHERS, row(bbox=(0, 0, 9, 9), score=0.2), row(score=0.9)], top_n=1)
    np.testing.assert_allclose(best.of(0)[1], [0.9])
    assert best.most == 1


def test_boxes_end_at_the_border_and_one_without_area_is_none(read):
    stored = read([*OTHERS, row(bbox=(-0.5, 0, 41, 30)), row(bbox=(3, 3, 0, 4))])
    np.testing.assert_array_equal(stored.of(0)[0], [[0, 0, 40, 30]])


def test_equal_scores_keep_their_order(read):
    stored = read([*OTHERS, *(row(bbox=(n, 0, 5, 5)) for n in range(9))])
    assert stored.of(0)[0][:, 0].tolist() == list(range(9))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "not readable as JSON"),
        ("[", "; write it again with rpn-jax propose --split, or give"),
        ({"images": []}, "is no list of results in COCO's format"),
        ([3], "[0]: 3 is no object with fields"),
        ([row(), {"bbox": [0, 0, 1, 1], "score": 1}], "[1]: has no image_id"),
        ([row(bbox=(1, 2, 3))], "[0]: bbox=[1, 2, 3] is not [x, y, width, height]"),
        ([row(), row(bbox=(9, 9, -5, 5))], "[1]: bbox=[9, 9, -5, 5] has a negative width"),
        ([row(bbox=(1, 2, 3, "a"))], '[0]: "a" is no number'),
        ([row(score=None)], "[0]: null is no number"),
        ([row(score=1e300)], "[0]: score=1e+300 is too large for a float32; mend"),
        ([row(score=float("nan"))], "[0]: NaN is not a finite number"),
        ([*OTHERS, row([7])], "[2]: [7] is no id"),
        ([*OTHERS, row(), row(71)], "has proposals of image 71, which data val has not; give"),
        (OTHERS, "has no proposals of 1 of the 3 images of data val, such as 70 (p.jpg)"),
        ([], "has no proposals of 3 of the 3 images of data val"),
        (
            [*OTHERS, row(file_name="photos/one.jpg")],
            "image 70 is photos/one.jpg there, but p.jpg in data val; give those of data val",
        ),
        (
            [*OTHERS, row(), row(bbox=(10, 20, 40, 9))],
            "the box [10.0, 20.0, 50.0, 29.0] (x1, y1, x2, y2) of image 70 is not in pixels of its "
            "40x30; give proposals of these images",
        ),
        ([row(i, (0, 0, 0.5, 0.9)) for i in (70, "seven", 50)], "is not in pixels of its"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(content, said, read, tmp_path):
    with pytest.raises(UserError) as caught:
        read(content)
    assert str(caught.value).startswith(f"{tmp_path / 'proposals.json'}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def arrays(**changed):
    return {
        "image_ids": np.array([image.id for image in IMAGES]),
        "file_names": np.array([image.filename for image in IMAGES]),
        "counts": np.array([1, 0, 2]),
        "boxes": np.float32([[0, 0, 5, 6], [1, 1, 4, 4], [2, 2, 3, 3]]),
        "scores": np.float32([0.5, 0.2, 0.3]),
        **changed,
    }


@pytest.mark.parametrize(
    ("box", "said"),
    [([np.nan, 1, 4, 4], "that is no number"), ([4, 1, 1, 4], "of a negative width or height")],
)
def test_a_bad_box_of_an_npz_is_named_by_its_image(box, said, tmp_path):
    file = tmp_path / "proposals.npz"
    np.savez(file, **arrays(boxes=np.float32([[0, 0, 5, 6], box, [2, 2, 3, 3]])))
    with pytest.raises(UserError, match=f"image 50 has a box {said}"):
        read_proposals(file, IMAGES, 10)


def test_an_npz_can_say_that_an_image_has_none(tmp_path):
    file = tmp_path / "proposals.npz"
    np.savez(file, **arrays())
    stored = read_proposals(file, IMAGES, 10)
    assert [len(stored.of(i)[1]) for i in range(3)] == [1, 0, 2]
    np.testing.assert_allclose(stored.of(2)[1], [0.3, 0.2])


def test_proposals_of_other_pictures_of_the_same_names_are_refused(tmp_path):
    file = tmp_path / "proposals.npz"
    np.savez(file, **arrays(), pixels=np.array("aa"))
    for same in ("aa", None):  # data of version 0.1 have no hash
        assert read_proposals(file, IMAGES, 10, pixels=same).most == 2
    with pytest.raises(UserError, match="have the names of those of x val, but other pixels"):
        read_proposals(file, IMAGES, 10, "x val", pixels="bb")
    for unknown in ({}, {"pixels": np.array("")}):
        np.savez(file, **arrays(), **unknown)
        assert read_proposals(file, IMAGES, 10, pixels="bb").most == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"counts": np.array([1, 1, 2])},
        {"boxes": np.full((3, 4), np.nan)},
        {"boxes": np.float32([[0, 0, 5, 6], [4, 4, 1, 1], [2, 2, 3, 3]])},
        {"scores": np.zeros(2)},
        {"scores": np.full(3, np.nan)},
        {"scores": np.full(3, 1e300)},
        {"image_ids": np.array([70, None, 50])},  # pickled, which is not read
    ],
)
def test_a_damaged_npz_is_one_line(changed, tmp_path):
    file = tmp_path / "proposals.npz"
    np.savez(file, **arrays(**changed))
    with pytest.raises(UserError, match="is not what rpn-jax propose --split --format=npz writes"):
        read_proposals(file, IMAGES, 10)
    for damaged in (b"PK", b"hello", b""):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged, or .*; write it again with rpn") as caught:
            read_proposals(file, IMAGES, 10)
        assert "pickle" not in str(caught.value)


def test_an_npz_with_a_damaged_byte_is_one_line(tmp_path):
    file = tmp_path / "proposals.npz"
    np.savez_compressed(file, **arrays())
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(UserError):  # a byte that only dates an entry changes nothing
            read_proposals(file, IMAGES, 10)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nothing.json: cannot be .*; give the file that"):
        read_proposals(tmp_path / "nothing.json", IMAGES, 10)
