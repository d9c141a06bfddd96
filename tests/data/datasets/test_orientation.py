"""Images with an EXIF orientation: boxes lie on the objects, in whichever pixels they were."""

import json
import pathlib

import numpy as np
import pytest
from folders import Image, turned_image, voc_xml

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.data.loader import load_example
from rpn_jax.data.transforms import whole_view
from rpn_jax.errors import UserError

STORED_BOX = (4, 2, 24, 12)  # of a white object on black, 1-based as VOC writes them


def photograph(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = STORED_BOX
    pixels[y1 - 1 : y2, x1 - 1 : x2] = 255
    return pixels


def shown_box(orientation, height, width):
    """Where a viewer shows the object: STORED_BOX, turned by what the orientations mean."""
    x1, y1, x2, y2 = STORED_BOX
    x, y = (width + 1 - x2, width + 1 - x1), (height + 1 - y2, height + 1 - y1)  # mirrored
    return {
        2: (x[0], y1, x[1], y2),
        3: (x[0], y[0], x[1], y[1]),
        6: (y[0], x1, y[1], x2),  # the first row is shown at the right, the first column on top
        8: (y1, x[0], y2, x[1]),
    }[orientation]


@pytest.fixture
def annotate(voc, tmp_path):
    """Makes image b of the VOC folder a photograph; returns how to prepare and open it."""

    def write(orientation, hw, frame, says=None, kind="JPEG"):
        """`frame`: the pixels that the box is drawn in; `says`: the size in the annotation."""
        height, width = hw
        box = STORED_BOX if frame == "stored" else shown_box(orientation, height, width)
        shown_hw = (width, height) if orientation >= 5 else hw
        sizes = {"stored": hw, "shown": shown_hw, None: hw}
        voc.image("b").write_bytes(turned_image(photograph(height, width), orientation, kind))
        image = Image(*sizes[says], (box,))
        voc.annotation("b").write_text(voc_xml(image, size=says is not None))
        place = dict(data_dir=tmp_path / "prepared", source=voc.root)

        def load(**options):
            report = prepare_dataset("voc_folder", **place, **options)
            return report, open_dataset("voc_folder", "train", **place, **options)[1]

        return load

    return write


def share_of_white(record):
    """Returns how much of the record's box, as training sees it, is the object."""
    view = whole_view(record.height, record.width, shorter_side=60, longer_side=120)
    image, boxes = load_example(record, view)
    x1, y1, x2, y2 = boxes[0].round().astype(int)
    return (image[y1:y2, x1:x2] > 128).mean(), (image > 128).all(axis=2).sum() / image[..., 0].size


def check_box_is_on_the_object(record):
    inside, _ = share_of_white(record)
    area = (record.boxes[0, 2] - record.boxes[0, 0]) * (record.boxes[0, 3] - record.boxes[0, 1])
    assert inside > 0.95
    assert area == 21 * 11


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("hw", [(40, 60), (60, 60)])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_boxes_drawn_in_a_viewer_lie_on_the_objects(annotate, orientation, hw, kind):
    report, record = annotate(orientation, hw, "shown", says="shown", kind=kind)()
    check_box_is_on_the_object(record)
    assert (record.height, record.width) == (hw[::-1] if orientation >= 5 else hw)
    known_by = "size" if orientation >= 5 and hw == (40, 60) else "default"
    (noted,) = report.splits["train"].noted
    assert noted.file.endswith("b.jpg")
    assert noted.what == (
        f"EXIF orientation {orientation}, boxes in the pixels shown (known by the {known_by})"
    )
    assert f"b.jpg: {noted.what}" in str(report)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_the_size_tells_that_boxes_are_in_stored_pixels(annotate, kind):
    report, record = annotate(6, (40, 60), "stored", says="stored", kind=kind)()
    check_box_is_on_the_object(record)
    assert (record.height, record.width) == (40, 60)
    assert "stored (known by the size)" in report.splits["train"].noted[0].what


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(("orientation", "hw"), [(2, (40, 60)), (3, (40, 60)), (6, (60, 60))])
def test_an_option_tells_where_sizes_cannot(annotate, orientation, hw, kind):
    load = annotate(orientation, hw, "stored", says="stored", kind=kind)
    report, record = load(orientation="stored")
    check_box_is_on_the_object(record)
    assert "stored (known by the option)" in report.splits["train"].noted[0].what


def test_without_a_size_the_pixels_shown_are_meant(annotate):
    _, record = annotate(6, (40, 60), "shown")()
    check_box_is_on_the_object(record)


def test_a_size_of_neither_names_the_orientation(annotate, voc):
    load = annotate(6, (40, 60), "shown", says="shown")
    voc.annotation("b").write_text(voc_xml(Image(50, 50, (STORED_BOX,))))
    with pytest.raises(UserError, match="for 50x50 pixels, the image has 60x40, or 40x60 turned"):
        load()


def test_where_sizes_say_stored_nothing_is_guessed_of_the_others(annotate, voc):
    load = annotate(6, (40, 60), "stored", says="stored")
    voc.image("c").write_bytes(turned_image(photograph(30, 40), 3))
    with pytest.raises(UserError, match=r"c\.jpg: has an EXIF .*b\.jpg .*orientation=stored"):
        load()
    report, _ = load(orientation="stored")
    assert len(report.splits["train"].noted) == 2


def test_an_orientation_that_is_neither(annotate):
    with pytest.raises(UserError, match="orientation='exif': give shown or stored"):
        annotate(6, (40, 60), "shown")(orientation="exif")


def test_data_of_version_0_1_open_as_they_were_and_are_named_when_prepared_again(annotate, voc):
    """It took every box to be in stored pixels, and knew neither turns nor notes."""
    load = annotate(3, (40, 60), "stored", says="stored")
    report, _ = load()
    file = pathlib.Path(report.directory) / "metadata.json"
    index = json.loads(file.read_bytes())
    for split in index["splits"]:
        del index["splits"][split]["turns"]
        del index["report"]["splits"][split]["noted"]
    file.write_text(json.dumps(index))
    record = open_dataset("voc_folder", "train", data_dir=file.parents[3], source=voc.root)[1]
    check_box_is_on_the_object(record)
    with pytest.raises(UserError, match=r"b\.jpg: has changed .*other pixels \(EXIF orientation 3"):
        load()


def test_an_image_that_is_black_to_the_eye_is_noted(voc, tmp_path):
    import cv2

    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30, 3)).astype(np.uint16)
    voc.image("b").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    report = prepare_dataset("voc_folder", data_dir=tmp_path / "prepared", source=voc.root)
    (noted,) = report.splits["train"].noted
    assert noted.file == str(voc.image("b"))
    assert noted.what.startswith("no pixel is brighter than 15 of 255; stretch 12-bit data")
