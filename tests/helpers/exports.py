"""Folders as annotation tools write them, with one box in each image."""

import json

from folders import picture

BOX = [8.25, 8.5, 56.75, 48.0]
CATEGORIES = [{"id": 0, "name": "dog"}]


class Export:
    """A folder to fill."""

    def __init__(self, root):
        self.root = root

    def image(self, *names):
        for name in names:
            self.file(name).write_bytes(picture(name, 64, 96))

    def file(self, name):
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def coco(self, name, file_names, categories=CATEGORIES, of=0, **fields):
        """Writes one JSON with the box in each image."""
        x1, y1, x2, y2 = BOX
        images = [
            {"id": i, "file_name": file_name, "width": 96, "height": 64}
            for i, file_name in enumerate(file_names)
        ]
        box = dict(bbox=[x1, y1, x2 - x1, y2 - y1], category_id=of, segmentation=[], iscrowd=0)
        annotations = [{"id": i, "image_id": i, **box, **fields} for i in range(len(images))]
        content = dict(images=images, categories=categories, annotations=annotations)
        self.file(name).write_text(json.dumps(content))

    def yolo(self, name, label=0):
        """Writes the labels of an image of 96x64 pixels."""
        x1, y1, x2, y2 = BOX
        row = (
            f"{(x1 + x2) / 192:.6f} {(y1 + y2) / 128:.6f} {(x2 - x1) / 96:.6f} {(y2 - y1) / 64:.6f}"
        )
        self.file(name).write_text(f"{label} {row}\n")

    def voc(self, name, corners=BOX, extra=""):
        x1, y1, x2, y2 = corners
        self.file(name).write_text(
            "<annotation><folder></folder><filename>a.jpg</filename><path>/data/a.jpg</path>"
            "<source><database>Unknown</database></source>"
            "<size><width>96</width><height>64</height><depth>3</depth></size>"
            "<segmented>0</segmented><object><name>dog</name><pose>Unspecified</pose>"
            f"<truncated>0</truncated><difficult>0</difficult>{extra}<bndbox><xmin>{x1}</xmin>"
            f"<xmax>{x2}</xmax><ymin>{y1}</ymin><ymax>{y2}</ymax></bndbox></object></annotation>"
        )
