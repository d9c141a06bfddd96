"""Average precision of detections: COCO's twelve figures, VOC's two, of each class, and by error.

Boxes, areas and counts are those of the *original* image, and everything is NumPy on the host.
Images are matched one by one, by the process that has them; what that gives adds up over processes
in any order, since the end puts the images in the order of their ids.

COCO's figures are pycocotools' own (`coco_precision`), those of VOC follow py-faster-rcnn (`voc`).
Classes without objects are left out of all means.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask
from jaxtyping import Float, Int

from rpn_jax.data.masks import of_box
from rpn_jax.evaluation import detections
from rpn_jax.evaluation.coco_precision import CocoCurves, coco_curves, coco_matches, runs_of
from rpn_jax.evaluation.detections import DetectionMatches, ImageDetections
from rpn_jax.evaluation.errors import Error, error_parts, explain
from rpn_jax.evaluation.figures import Figures
from rpn_jax.evaluation.matching import IOU_THRESHOLDS, pairwise_iou
from rpn_jax.evaluation.recall import SIZE_RANGES
from rpn_jax.evaluation.voc import VocPrecision, voc_precision, voc_verdicts
from rpn_jax.evaluation.weighted import SplitMatches
from rpn_jax.tables import format_table

HEADLINE = "AP"
_MAX_DETECTIONS = (1, 10, 100)  # of an image and class, for COCO's average recall
CURVES = (*(f"{t:.2f}" for t in IOU_THRESHOLDS), "mean")  # by IoU threshold
ERRORS = tuple(kind.name.lower() for kind in list(Error)[1:])
IOU_75 = 5  # index into IOU_THRESHOLDS
# Names of the figures, of which those of a class are fewer.
SCALARS = (
    *(HEADLINE, "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR@1", "AR@10", "AR@100", "AR_small@100", "AR_medium@100", "AR_large@100"),
    *("VOC07", "VOC12"),
)
CLASS_FIGURES = ("AP", "AP50", "AP75", "VOC07", "VOC12")


@dataclasses.dataclass(frozen=True, eq=False)
class PrecisionResult:
    """The figures of a split; `str()` gives a table.

    Fields:
      class_names: of the C classes.
      num_objects: of each class and size range.
      curves: COCO's precision and recall of the best 1, 10 and 100 detections of an image and
        class, by their number.
      voc: VOC's average precision of each class with objects.
      errors: what each kind of error costs in AP50.
      images: number of images.
      num_detections: number of their detections.
    """

    class_names: tuple[str, ...]
    num_objects: Int[np.ndarray, "C A"]
    curves: dict[int, CocoCurves]
    voc: dict[int, VocPrecision]
    errors: dict[str, float]
    images: int
    num_detections: int

    def scalars(self) -> dict[str, float]:
        """Returns COCO's twelve figures and VOC's two by name; one without objects is left out."""
        precision, recall = self.curves[100]
        voc = np.array([*self.voc.values()]).reshape(-1, 2)
        ratios = [
            *(precision[:, 0], precision[:, 0, 0], precision[:, 0, IOU_75]),
            *(precision[:, a] for a in range(1, len(SIZE_RANGES))),
            *(self.curves[n].recall[:, 0] for n in _MAX_DETECTIONS),
            *(recall[:, a] for a in range(1, len(SIZE_RANGES))),
            *voc.T,
        ]
        named = dict(zip(SCALARS, map(_mean, ratios), strict=True))
        return {name: value for name, value in named.items() if not np.isnan(value)}

    def of_classes(self) -> list[dict[str, Any]]:
        """Returns the figures of each class; None for those of one without objects."""
        precision = self.curves[100].precision[:, 0].mean(axis=-1)
        rows = []
        for c, name in enumerate(self.class_names):
            voc = self.voc.get(c, VocPrecision(np.nan, np.nan))
            ratios = {
                "AP": precision[c].mean(),
                "AP50": precision[c, 0],
                "AP75": precision[c, IOU_75],
                "VOC07": voc.eleven_points,
                "VOC12": voc.area,
            }
            known = {key: None if np.isnan(ap) else float(ap) for key, ap in ratios.items()}
            rows.append({"name": name, "objects": int(self.num_objects[c, 0]), **known})
        return rows

    def figures(self) -> Figures:
        """Returns the figures of a detector."""
        return Figures(HEADLINE, self.scalars(), str(self), self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns what the scalars leave out as JSON types.

        `precision` has the mean of the classes at the 101 recall points, by IoU threshold and as
        mean over all of them.
        """
        precision = self.curves[100].precision[self.num_objects[:, 0] > 0, 0]
        curves = {}
        if len(precision):
            mean = precision.mean(axis=0)
            curves = dict(zip(CURVES, [*mean.tolist(), mean.mean(axis=0).tolist()], strict=True))
        return {
            "images": self.images,
            "detections": self.num_detections,
            "objects": dict(zip(SIZE_RANGES, self.num_objects.sum(axis=0).tolist(), strict=True)),
            "classes": self.of_classes(),
            "errors": self.errors,
            "precision": curves,
        }

    def __str__(self) -> str:
        """Returns the tables that `evaluate` prints, in per cent."""
        all_objects, *of_size = self.num_objects.sum(axis=0).tolist()
        sizes = [f"{n} {size}" for n, size in zip(of_size, list(SIZE_RANGES)[1:], strict=True)]
        scalars = self.scalars()
        recall = [name for name in SCALARS if name.startswith("AR")]
        precision = [name for name in SCALARS if name not in recall]
        classes = [["class", "objects", *CLASS_FIGURES]]
        for row in self.of_classes():
            ratios = [_percent(row[name]) for name in CLASS_FIGURES]
            classes.append([row["name"], str(row["objects"]), *ratios])
        return "\n".join(
            [
                f"{self.images} images, {all_objects} objects ({', '.join(sizes)}), "
                f"{self.num_detections / max(self.images, 1):.1f} detections per image",
                "average precision and recall in %",
                format_table([precision, [_percent(scalars.get(n)) for n in precision]], names=0),
                format_table([recall, [_percent(scalars.get(name)) for name in recall]], names=0),
                "rise of AP50 in points with all errors of a kind mended",
                format_table([ERRORS, [_percent(self.errors.get(n)) for n in ERRORS]], names=0),
                format_table(classes),
            ]
        )


class PrecisionMeasurement:
    """Average precision of a split: see `figures.Measurement`."""

    of_masks = False

    def __init__(self, class_names: Sequence[str]):
        self._class_names = tuple(class_names)
        self._images: dict[int, DetectionMatches] = {}

    def add(self, image: ImageDetections) -> None:
        """Adds the detections of one image.

        Raises:
            ValueError: its id was added before, or a label is of no class.
        """
        image = detections.in_order(image)
        labels = np.concatenate([image.labels, image.gt_labels])
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self._class_names):
            raise ValueError(f"image {image.image_id}: a label is not below the number of classes")
        self._put(image.image_id, image_matches(image, of_masks=self.of_masks))

    def share(self) -> dict[str, Any]:
        """Returns the matches as JSON types."""
        pairs = self._images.items()
        return {"images": [[image_id, detections.to_json(image)] for image_id, image in pairs]}

    def merge(self, share: Mapping[str, Any]) -> None:
        """Adds the matches of another process."""
        for image_id, fields in share["images"]:
            self._put(image_id, detections.from_json(fields))

    def result(self) -> Figures:
        """Returns the figures of all that was added."""
        ids = np.array(sorted(self._images), np.int64)
        images = [self._images[i] for i in ids.tolist()]
        matches = detections.concatenate(images)
        is_object = matches.gt_counts[:, 0]
        arrays = SplitMatches(
            matches.label,
            matches.score,
            ids.repeat([len(image.label) for image in images]),
            matches.hit[:, 0],
            matches.ignored[:, 0],
            matches.gt_label[is_object],
            ids.repeat([len(image.gt_label) for image in images])[is_object],
        )
        result = split_precision(self._class_names, matches, len(images))
        return result.figures()._replace(arrays=arrays._asdict())

    def _put(self, image_id: int, matches: DetectionMatches) -> None:
        if image_id in self._images:
            raise ValueError(f"image {image_id} is measured twice")
        self._images[image_id] = matches


class MaskMeasurement(PrecisionMeasurement):
    """The same of masks: all IoUs are those of masks, and areas of detections too.

    An object without a mask is an ignore region over its box.
    """

    of_masks = True

    def add(self, image: ImageDetections) -> None:
        """Adds the detections of one image, with masks."""
        super().add(_with_all_masks(image))

    def result(self) -> Figures:
        """Returns the figures, whose details have a name of their own beside those of boxes."""
        figures = super().result()
        return figures._replace(details={"masks": figures.details})


def _with_all_masks(image: ImageDetections) -> ImageDetections:
    assert image.gt_masks is not None
    lacking = np.array([not counts for counts in image.gt_masks], bool)
    return image._replace(
        gt_ignore=np.asarray(image.gt_ignore) | lacking,
        gt_masks=[
            counts or of_box(box, *image.hw)
            for counts, box in zip(image.gt_masks, image.gt_boxes, strict=True)
        ],
    )


def split_precision(
    class_names: Sequence[str], matches: DetectionMatches, images: int
) -> PrecisionResult:
    """Returns the result of all matches of so many images."""
    C = len(class_names)
    num_objects = np.stack(
        [np.bincount(matches.gt_label[counts], minlength=C) for counts in matches.gt_counts.T],
        axis=1,
    )
    curves = {}
    for n in _MAX_DETECTIONS:
        best = matches.place < n
        columns = (matches.label, matches.score, matches.hit, matches.ignored)
        curves[n] = coco_curves(*(column[best] for column in columns), num_objects)
    return PrecisionResult(
        tuple(class_names),
        num_objects,
        curves,
        _voc(matches, num_objects[:, 0]),
        error_parts(matches, num_objects[:, 0]),
        images,
        len(matches.label),
    )


def image_matches(image: ImageDetections, *, of_masks: bool = False) -> DetectionMatches:
    """Returns the matches of an image whose detections are in order (`detections.in_order`)."""
    coco = coco_matches(image, of_masks=of_masks)
    iou = _mask_iou(image) if of_masks else pairwise_iou(image.boxes, image.gt_boxes)
    same_class = image.labels[:, None] == image.gt_labels
    first = np.searchsorted(image.labels, image.labels)  # of the class
    explained = explain(
        iou,
        image.scores,
        same_class,
        ~coco.hit[:, 0, 0] & ~coco.ignored[:, 0, 0],
        image.gt_labels,
        coco.gt_counts[:, 0],
        coco.gt_found,
    )
    return DetectionMatches(
        image.labels,
        image.scores,
        np.arange(len(image.labels)) - first,
        coco.hit,
        coco.ignored,
        voc_verdicts(iou, same_class, image.gt_ignore),
        explained.error,
        explained.corrected_label,
        image.gt_labels,
        coco.gt_counts,
        explained.gt_missed,
    )


def _mask_iou(image: ImageDetections) -> Float[np.ndarray, "D G"]:
    runs, gt_runs = runs_of(image)
    if not runs or not gt_runs:
        return np.zeros((len(runs), len(gt_runs)))
    return pycocotools.mask.iou(runs, gt_runs, [0] * len(gt_runs))


def _voc(matches: DetectionMatches, num_objects: Int[np.ndarray, " C"]) -> dict[int, VocPrecision]:
    precision = {}
    for c in np.flatnonzero(num_objects).tolist():
        is_class = matches.label == c
        precision[c] = voc_precision(
            matches.score[is_class], matches.voc[is_class], int(num_objects[c])
        )
    return precision


def _mean(ratios: Float[np.ndarray, "..."]) -> float:
    """Returns the mean over the classes that have objects, and all other axes; NaN without any."""
    known = ratios[~np.isnan(ratios)]
    return float(known.mean()) if len(known) else np.nan


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.1f}"
