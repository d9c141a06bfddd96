"""Writes a config's prepared data, and what it says of the network, for `peer_training.py`.

    python scripts/peer_training_export.py --config=shapes_faster_rcnn --out=FOLDER

Runs in this project's environment, on data that `rpn-jax prepare` has prepared; flags such as
`--config.data.source=PATH` are those of `rpn-jax`. FOLDER has the layout of COCO:

    annotations/instances_SPLIT.json    boxes, classes, masks of a mask_rcnn
    SPLIT/000007.png                    the image of id 7
    settings.json                       the fields of `FIELDS`, and the config's name

Ignore regions (VOC's difficult objects, COCO's crowds) have `iscrowd` 1. Categories are numbered
from 1 in the order of the detector's classes. `settings.json` is written last.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
from ml_collections import ConfigDict

from rpn_jax.data.datasets import Dataset, Record
from rpn_jax.data.images import decode_image
from rpn_jax.data.masks import Masks, of_box
from rpn_jax.errors import UserError
from rpn_jax.evaluation.matching import to_xywh
from rpn_jax.files import user_path
from rpn_jax.progress import progress_bar
from rpn_jax.runs.config import flatten, sizes_per_level
from rpn_jax.runs.config_files import load_config
from rpn_jax.training.splits import open_split

# What torchvision's side is to have like the config.
FIELDS = (
    "detector",
    "steps",
    "batch_size",
    "data.train_split",
    "data.eval_split",
    "data.shorter_side",
    "data.longer_side",
    "model.backbone",
    "model.output_stage",
    "model.neck",
    "model.fpn_channels",
    "rpn.channels",
    "rpn.anchors.sizes",
    "rpn.anchors.aspect_ratios",
    "box.channels",
    "box.pooling.size",
    "box.pooling.sampling_ratio",
    "box.pooling.canonical_size",
    "box.targets.batch_size_per_image",
    "mask.channels",
    "mask.convolutions",
    "mask.pooling.size",
    "mask.pooling.sampling_ratio",
    "mask.pooling.canonical_size",
)
# The values that `peer_training.py` can build. Other fields are this project's own recipe.
CAN_BE: dict[str, tuple] = {
    "detector": ("faster_rcnn", "mask_rcnn"),
    "data.shorter_sides": ([],),
    "data.jitter.scales": ([],),
    "data.augmentations": ([],),
    "data.repeat_threshold": (0.0,),
    "data.more_sources": ([],),
    "model.backbone": ("resnet18", "resnet34", "resnet50", "resnet101", "vgg16"),
    "model.neck": (None, "fpn"),
    "model.stem": (None, "imagenet"),
    "model.dilate_c5": (None, False),
    "rpn.convolutions": (1,),
    "box.head": ("fc",),
    "box.dropout": (0.0,),
    "box.class_agnostic": (False,),
    "box.pooling.kind": ("align",),
    "mask.norm": (None,),
}
# A ResNet from scratch; a VGG-16 whose convolutions are trained already, and stay as they are.
CAN_BE_RESNET = {"model.norm": ("sync_batch_norm",), "model.frozen_stages": (0,)}
CAN_BE_VGG = {
    "model.norm": (None,),
    "model.frozen_stages": (5,),
    "model.output_stage": (None, "c5"),
    "model.neck": (None,),
}


def settings(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `FIELDS` that the config has; anchor sizes are those of each level.

    Raises:
        UserError: torchvision's detectors have no such network.
    """
    flat = flatten(config)
    of_backbone = CAN_BE_VGG if config.model.backbone == "vgg16" else CAN_BE_RESNET
    for name, values in {**CAN_BE, **of_backbone}.items():
        if name in flat and flat[name] not in values:
            raise UserError(
                f"config.{name}={flat[name]}: torchvision's side is built here for "
                f"{' or '.join(map(str, values))} alone; take another config"
            )
    kept = {name: flat[name] for name in FIELDS if name in flat}
    return kept | {"rpn.anchors.sizes": [list(sizes) for sizes in sizes_per_level(config)]}


def export(config: ConfigDict, out: pathlib.Path, name: str) -> None:
    """Writes both splits and the settings into a new folder; `name` is that of the config.

    Raises:
        UserError: see `settings`; the data are not prepared; or an object has no mask.
    """
    kept = settings(config)
    splits = {
        split: open_split(config, split, needs_objects=True)
        for split in (config.data.train_split, config.data.eval_split)
    }
    (out / "annotations").mkdir(parents=True)
    for split, dataset in splits.items():
        (out / split).mkdir()
        content = _export_split(dataset, out / split, with_masks="mask" in config)
        (out / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    (out / "settings.json").write_text(json.dumps({"config": name, **kept}, indent=2))


def _export_split(dataset: Dataset, folder: pathlib.Path, with_masks: bool) -> dict[str, list]:
    """Writes the images of a split; returns the content of its JSON."""
    images, annotations = [], []
    bar = progress_bar(range(len(dataset)), description=dataset.split, unit="image")
    for record in map(dataset.__getitem__, bar):
        file_name = f"{record.image_id:06}.png"
        pixels = decode_image(record.image_bytes, record.filename, record.turn)
        cv2.imwrite(str(folder / file_name), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        image = {"file_name": file_name, "height": record.height, "width": record.width}
        images.append({"id": record.image_id, **image})
        for annotation in _annotations(record, with_masks):
            # From 1 on: pycocotools takes id 0 for "not matched".
            annotations.append({"id": len(annotations) + 1, **annotation})
    categories = [{"id": i, "name": name} for i, name in enumerate(dataset.class_names, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _annotations(record: Record, with_masks: bool) -> Iterator[dict[str, Any]]:
    """Yields the annotations of an image, as COCO has them but for their ids."""
    columns = (record.labels, to_xywh(record.boxes), record.areas, record.ignore)
    masks = _masks(record) if with_masks else ({} for _ in record.boxes)
    for label, bbox, area, ignore, mask in zip(*(c.tolist() for c in columns), masks, strict=True):
        annotation = {"image_id": record.image_id, "category_id": label + 1, "bbox": bbox}
        yield annotation | {"area": area, "iscrowd": int(ignore), **mask}


def _masks(record: Record) -> list[dict[str, Any]]:
    """Returns the mask of each box as a field of its annotation; ignore regions may be boxes."""
    height, width = record.height, record.width
    given = record.masks or [b""] * len(record.boxes)
    if any(not counts and not ignore for counts, ignore in zip(given, record.ignore, strict=True)):
        raise UserError(
            f"{record.filename}: has an object without a mask, which torchvision's Mask R-CNN "
            "cannot train on; take data with all masks, or a faster_rcnn"
        )
    drawn = (c or of_box(box, height, width) for c, box in zip(given, record.boxes, strict=True))
    return [{"segmentation": mask} for mask in Masks(list(drawn), height, width).to_coco()]


def main(argv: Sequence[str] | None = None) -> None:
    """Exports the data of the config that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="as of rpn-jax train")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new one")
    arguments, overrides = parser.parse_known_args(argv)
    out = user_path(arguments.out)
    try:
        if out.exists():
            raise UserError(f"--out={out}: exists; give a new folder")
        export(load_config(arguments.config, overrides), out, arguments.config)
    except (OSError, UserError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
