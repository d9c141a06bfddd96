"""Why detections are wrong: six kinds of errors, and the AP50 that each one costs.

The kinds are those of TIDE (Bolya et al., arXiv 2008.08115), at IoU 0.5 and for objects of all
sizes. A kind's part is the rise of AP50 when all its errors are mended, and only those. The parts
do not add up to 1 - AP50: a mended error may uncover another one.

Where this is not TIDE: matches and recall points are those of pycocotools, so that AP50 is the one
that is reported, and classes without objects have no share in the mean. TIDE's recall points differ
in the last bit, which moves a part by less than a hundredth of a point.

Axes: D  detections    G  annotated boxes    C  classes
"""

import enum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rpn_jax.evaluation.coco_precision import coco_curves
from rpn_jax.evaluation.detections import DetectionMatches

_POSITIVE_IOU = 0.5
_BACKGROUND_IOU = 0.1


class Error(enum.IntEnum):
    """What is wrong with a detection, by its best IoU with an object of its class and of another.

    Of several that apply, the first in the order BOX, CLASS, DUPLICATE, BACKGROUND, BOTH is taken.
    """

    NONE = 0  # it is right, or left out
    CLASS = 1  # at least 0.5 with an object of another class; mended: of that class
    BOX = 2  # 0.1 to 0.5 with one of its class; mended: on that object
    BOTH = 3  # 0.1 to 0.5 with one of another class; mended: gone
    DUPLICATE = 4  # at least 0.5 with one of its class, which a better one found; mended: gone
    BACKGROUND = 5  # at most 0.1 with every object; mended: gone
    MISSED = 6  # an object without a detection of the kinds BOX and CLASS; mended: not counted


class Explained(NamedTuple):
    """Errors of an image; for the fields see `DetectionMatches`."""

    error: Int[np.ndarray, " D"]
    corrected_label: Int[np.ndarray, " D"]
    gt_missed: Bool[np.ndarray, " G"]


def explain(
    iou: Float[np.ndarray, "D G"],
    scores: Float[np.ndarray, " D"],
    same_class: Bool[np.ndarray, "D G"],
    is_false: Bool[np.ndarray, " D"],
    gt_labels: Int[np.ndarray, " G"],
    gt_counts: Bool[np.ndarray, " G"],
    gt_found: Bool[np.ndarray, " G"],
) -> Explained:
    """Returns the errors of an image's detections.

    An object that several mended detections would find goes to the one with the best score, the
    earlier one of equals; the others are gone.

    Args:
        iou: of the detections with the annotated boxes.
        scores: of the detections.
        same_class: whether detection and box are of one class.
        is_false: whether the detection is neither matched nor ignored.
        gt_labels: class of each box.
        gt_counts: whether the box is an object, no difficult or crowd box.
        gt_found: whether a detection is matched to it.
    """
    nothing = np.zeros((len(iou), 1))
    own = np.concatenate([np.where(same_class & gt_counts, iou, 0.0), nothing], axis=1)
    other = np.concatenate([np.where(~same_class & gt_counts, iou, 0.0), nothing], axis=1)
    best_own, best_other = own.max(axis=1), other.max(axis=1)
    error = np.select(
        [
            ~is_false,
            (best_own >= _BACKGROUND_IOU) & (best_own < _POSITIVE_IOU),
            best_other >= _POSITIVE_IOU,
            best_own >= _POSITIVE_IOU,
            best_other <= _BACKGROUND_IOU,
        ],
        [Error.NONE, Error.BOX, Error.CLASS, Error.DUPLICATE, Error.BACKGROUND],
        Error.BOTH,
    )
    target = np.where(error == Error.BOX, own.argmax(axis=1), other.argmax(axis=1))
    corrected_label = np.full(len(iou), -1, np.int32)
    is_free = gt_counts & ~gt_found
    order = np.argsort(-scores, kind="stable")
    for row in order[np.isin(error[order], (Error.BOX, Error.CLASS))]:
        if is_free[target[row]]:
            is_free[target[row]] = False
            corrected_label[row] = gt_labels[target[row]]
    return Explained(error.astype(np.int8), corrected_label, is_free)


def error_parts(matches: DetectionMatches, num_objects: Int[np.ndarray, " C"]) -> dict[str, float]:
    """Returns the rise of AP50 with each kind of error mended, by its name; {} without objects.

    A fall, which can only come from the recall points, counts as 0, as in TIDE.
    """
    if not num_objects.any():
        return {}
    hit, ignored = matches.hit[:, 0, 0], matches.ignored[:, 0, 0]
    classes = np.count_nonzero(num_objects)

    def ap50(labels, hit, ignored, num_objects) -> float:
        curves = coco_curves(
            labels, matches.score, hit[:, None, None], ignored[:, None, None], num_objects[:, None]
        )
        # A class all of whose objects are missed, and so not counted, stays among the classes.
        return float(np.nansum(curves.precision.mean(axis=-1)) / classes)

    now = ap50(matches.label, hit, ignored, num_objects)
    parts = {}
    for kind in list(Error)[1:]:
        is_kind = matches.error == kind
        mended = is_kind & (matches.corrected_label >= 0)
        missed = matches.gt_label[matches.gt_missed & (kind == Error.MISSED)]
        then = ap50(
            np.where(mended, matches.corrected_label, matches.label),
            hit | mended,
            ignored | (is_kind & ~mended),
            num_objects - np.bincount(missed, minlength=len(num_objects)),
        )
        parts[kind.name.lower()] = max(0.0, then - now)
    return parts
