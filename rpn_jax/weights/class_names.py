"""The classes of trained detectors, in the order of their scores; background is not among them."""

from collections.abc import Sequence
from typing import NamedTuple

from rpn_jax.errors import UserError, list_some

# COCO's categories by their ids, which have gaps.
COCO = {
    number: name
    for first, names in {
        1: "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
        "fire hydrant",
        13: "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, "
        "zebra, giraffe",
        27: "backpack, umbrella",
        31: "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, "
        "baseball glove, skateboard, surfboard, tennis racket, bottle",
        46: "wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
        "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed",
        67: "dining table",
        70: "toilet",
        72: "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
        "refrigerator",
        84: "book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
    }.items()
    for number, name in enumerate(names.split(", "), first)
}
VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


class Classes(NamedTuple):
    """The names of a detector's classes, and the ids of their source, () where it has none."""

    names: tuple[str, ...]
    category_ids: tuple[int | str, ...] = ()


def classes_of(count: int) -> Classes:
    """Returns the classes of a detector that has so many, as the usual data sets order them.

    80 are COCO's; 90 are COCO's with a place for each of its unused ids, as in torchvision; 20 are
    VOC's. Any others are numbered.
    """
    if count == len(COCO):
        return Classes(tuple(COCO.values()), tuple(COCO))
    if count == max(COCO):
        ids = tuple(range(1, count + 1))
        return Classes(tuple(COCO.get(number, f"unused {number}") for number in ids), ids)
    if count == len(VOC):
        return Classes(VOC)
    return Classes(_numbered(count))


def are_known(names: Sequence[str]) -> bool:
    """Returns whether the names are more than the numbers that `classes_of` gives."""
    return tuple(names) != _numbered(len(names))


def class_order(ours: Sequence[str], theirs: Sequence[str]) -> list[int] | None:
    """Returns the place of each of `ours` among a detector's classes `theirs`, as far as known.

    None if they are other classes.
    """
    if len(ours) == len(theirs) and not are_known(theirs):
        return list(range(len(ours)))
    if sorted(ours) != sorted(theirs):
        return None
    return [list(theirs).index(name) for name in ours]


def check_renamed(where: str, given: Sequence[str], trained: Sequence[str]) -> None:
    """Raises a `UserError` unless `given` renames classes of a trained detector in their places.

    Its outputs know their classes by place alone. `where` is the detector's folder or file.
    """
    if len(given) != len(trained):
        raise UserError(
            f"--config.box.class_names: are {len(given)}, but {where} was trained on "
            f"{len(trained)} classes; leave it out, or rename {list_some(trained)} in this order"
        )
    for new, old in zip(given, trained, strict=True):
        if new != old and new in trained:
            raise UserError(
                f"--config.box.class_names: has {new!r} in the place of {old!r}, but {where} was "
                f"trained on {list_some(trained)}; leave it out, data are mapped by name"
            )


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(1, count + 1))
