"""Small annotated folders to prepare, in the layouts of VOC and COCO."""

import io
import json
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image as PillowImage


class Image(NamedTuple):
    height: int
    width: int
    boxes: tuple[tuple[float, float, float, float], ...]  # as VOC writes them
    difficult: tuple[int, ...] = ()


# Three aspect ratios, an image without objects, and one with a difficult object.
IMAGES = {
    "a": Image(30, 40, ((1, 1, 10, 20), (11, 5, 40, 30)), (0, 1)),
    "b": Image(40, 30, ((5, 6, 25, 36),)),
    "c": Image(30, 40, ()),
    "d": Image(32, 32, ((2, 3, 20, 31), (1, 1, 32, 32), (9, 9, 12, 12))),
    "e": Image(30, 40, ((3, 4, 33, 24),)),
}


def picture(name: str, height: int, width: int) -> bytes:
    """A smooth image, another for each name, so that JPEG and resizing change little."""
    rng = np.random.default_rng(list(name.encode()))
    coarse = rng.integers(0, 256, (3, 3, 3)).astype(np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (width, height)))[1].tobytes()


def turned_image(pixels: np.ndarray, orientation: int, kind: str = "JPEG") -> bytes:
    """An image file of these stored RGB pixels that viewers turn, as cameras write them."""
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    PillowImage.fromarray(pixels).save(file, kind, exif=exif, **options)
    return file.getvalue()


def voc_xml(image: Image, size: bool = True) -> str:
    difficult = image.difficult or (0,) * len(image.boxes)
    objects = "".join(
        f"<object><name>{'dog' if i else 'cat'}</name><difficult>{hard}</difficult><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for i, ((x1, y1, x2, y2), hard) in enumerate(zip(image.boxes, difficult, strict=True))
    )
    dimensions = f"<size><width>{image.width}</width><height>{image.height}</height></size>"
    return f"<annotation>{dimensions if size else ''}{objects}</annotation>"


class VocFolder:
    """A folder to break in various ways."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / part).mkdir(parents=True)
        for name, image in IMAGES.items():
            self.image(name).write_bytes(picture(name, image.height, image.width))
            self.annotation(name).write_text(voc_xml(image))
        self.names("train").write_text("a\nb\nc\nd\ne\n")
        self.names("test").write_text("d\na\n")
        self.names("cat_train").write_text("a  1\nb -1\n")  # one of a class, to be left alone

    def image(self, name: str) -> pathlib.Path:
        return self.root / "JPEGImages" / f"{name}.jpg"

    def annotation(self, name: str) -> pathlib.Path:
        return self.root / "Annotations" / f"{name}.xml"

    def names(self, split: str) -> pathlib.Path:
        return self.root / "ImageSets/Main" / f"{split}.txt"


class CocoFolder:
    """The same, with one JSON to change."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        (root / "annotations").mkdir(parents=True)
        (root / "val").mkdir()
        self.content = {
            "images": [
                {"id": 70, "file_name": "p.jpg", "height": 30, "width": 40},
                {"id": 50, "file_name": "q.jpg", "height": 40, "width": 30},
            ],
            "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
            "annotations": [
                self.annotation(1, 70, 18, [2, 3, 10.5, 20], area=99.5),
                self.annotation(2, 70, 3, [0, 0, 40, 30], iscrowd=1),
                self.annotation(3, 50, 3, [1, 1, 5, 5]),
            ],
        }
        for image in self.content["images"]:
            self.image(image["file_name"]).write_bytes(
                picture(image["file_name"], image["height"], image["width"])
            )
        self.write()

    @staticmethod
    def annotation(number, image_id, category_id, bbox, **fields):
        return dict(id=number, image_id=image_id, category_id=category_id, bbox=bbox, **fields)

    @property
    def file(self) -> pathlib.Path:
        return self.root / "annotations/instances_val.json"

    def image(self, name: str) -> pathlib.Path:
        return self.root / "val" / name

    def write(self) -> None:
        self.file.write_text(json.dumps(self.content))
