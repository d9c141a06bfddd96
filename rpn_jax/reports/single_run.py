"""Sections of a report on a single run: the objects that it finds, pictures, ablations."""

import glob
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from rpn_jax.data.datasets import Record
from rpn_jax.data.datasets.report import ASPECT_EDGES, ASPECT_NAMES, SIZE_EDGES, SIZE_NAMES
from rpn_jax.data.images import decode_image
from rpn_jax.errors import UserError
from rpn_jax.evaluation.objects import ObjectRanks, found
from rpn_jax.files import write_bytes
from rpn_jax.reports.document import Cell, Picture, Pictures, Section, Table, Text, percent
from rpn_jax.reports.evaluations import Evaluation, Measure, image_hits, read_evaluation
from rpn_jax.reports.results import Result
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.training.splits import open_split
from rpn_jax.visualize.boxes import draw_found

_PARTS = {"nms": "NMS", "ranking": "the ranking", "regression": "the box regression"}
_LONG_SIDE = 800  # pixels of a picture
_EACH = 2  # pictures each of the best, the median and the worst images
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 80]

# mAP of a Fast R-CNN with ZF on VOC 2007 test, by number of proposals. It was trained on selective
# search's proposals, so that only the proposals at test time change.
_PAPER = {
    (): {100: 55.1, 300: 56.8, 1000: 56.3},
    ("nms",): {6000: 55.2},
    ("ranking",): {100: 44.6, 300: 51.4, 1000: 55.8},
    ("regression",): {300: 52.1, 1000: 51.3},
}


def breakdown_section(evaluation: Evaluation, measured: Sequence[Measure]) -> Section:
    """Returns tables of the recall by class, by size and by aspect ratio of the objects."""
    objects = evaluation.objects
    width, height = (objects.box[:, 2:] - objects.box[:, :2]).astype(np.float64).T
    of_size = np.digitize(np.sqrt(width * height), SIZE_EDGES)
    of_aspect = np.digitize(width / height, ASPECT_EDGES)
    values = np.stack([measure.of_objects(objects) for measure in measured], axis=1)

    def table(what, names, kind):
        rows = [_row(name, values, kind == i) for i, name in enumerate(names)]
        header = [what, "objects", *(measure.name for measure in measured)]
        return Table(header, [row for row in rows if row])

    note = "In per cent. Size and aspect ratio are those of the boxes, in pixels of the original."
    return Section(
        "By class, size and aspect ratio",
        [
            Text(note),
            table("class", evaluation.class_names, objects.class_index),
            table("size, √area", SIZE_NAMES, of_size),
            table("width : height", ASPECT_NAMES, of_aspect),
        ],
    )


def _row(
    name: str, values: Float[np.ndarray, "O M"], chosen: Bool[np.ndarray, " O"]
) -> list[str] | None:
    if not chosen.any():
        return None
    return [name, str(chosen.sum()), *map(percent, values[chosen].mean(axis=0))]


def choose_images(objects: ObjectRanks, top_n: int, each: int = _EACH) -> dict[str, list[int]]:
    """Returns the best, median and worst images by their AR@top_n, no image twice.

    Ties go to the image with more objects, then to the earlier image. Images without objects are
    left out.
    """
    count = objects.num_objects
    hits = image_hits(objects, [Measure("AR", top_n)])[:, 0]
    recall = hits / np.maximum(count, 1)
    place = np.arange(len(count))
    worst = [i for i in np.lexsort((place, -count, recall)).tolist() if count[i]]
    best = [i for i in np.lexsort((place, -count, -recall)).tolist() if count[i]]
    each = min(each, max(1, len(best) // 3))
    chosen = {"best": best[:each], "worst": [i for i in worst if i not in best[:each]][:each]}
    taken = {i for images in chosen.values() for i in images}
    rest = [i for i in best if i not in taken]
    start = (len(rest) - each) // 2 if len(rest) > each else 0
    middle = rest[start : start + each]
    return {"best": chosen["best"], "median": middle, "worst": chosen["worst"]}


def picture_section(run: Result, top_n: int, out: pathlib.Path) -> Section:
    """Draws the best, median and worst images, if the dataset is available."""
    title, objects = "Best, median and worst images", run.evaluation.objects
    try:
        config, split = load_workdir_config(run.folder), run.evaluation.figures["split"]
        dataset = open_split(config, split, needs_masks=False)
    except UserError as error:
        return Section(title, [Text(f"Not drawn: {error}.")])
    if len(dataset) != len(objects.image_id):
        return Section(title, [Text("Not drawn: the dataset is another than was evaluated.")])
    pictures = []
    for kind, images in choose_images(objects, top_n).items():
        for number, index in enumerate(images, 1):
            record, chosen = dataset[index], objects.image_index == index
            file = f"pictures/{kind}_{number}.jpg"
            _, content = cv2.imencode(
                ".jpg", _draw(record, objects, chosen, top_n)[..., ::-1], _QUALITY
            )
            write_bytes(out / file, content.tobytes())
            is_found = found(objects, top_n)[chosen]
            name = pathlib.PurePath(record.filename).name
            text = (
                f"{kind.capitalize()}: {name}, {is_found[:, 0].sum()} of {chosen.sum()} objects "
                f"found at IoU 0.5, AR {100 * is_found.mean():.1f} %"
            )
            pictures.append(Picture(file, text, has_caption=True))
    note = (
        f"By the AR of the image's best {top_n} proposals. An object is missed where none of them "
        "was given to it at IoU 0.5."
    )
    return Section(title, [Text(note), Pictures(pictures, are_wide=True)])


def _draw(
    record: Record, objects: ObjectRanks, chosen: Bool[np.ndarray, " O"], top_n: int
) -> UInt8[np.ndarray, "h w 3"]:
    image = decode_image(record.image_bytes, record.filename, record.turn)
    scale = min(1.0, _LONG_SIDE / max(image.shape[:2]))
    if scale < 1:
        size = [round(side * scale) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    found_boxes = objects.found_box[chosen].copy()
    found_boxes[~found(objects, top_n)[chosen, 0]] = np.nan
    return draw_found(
        image,
        scale * objects.box[chosen],
        scale * found_boxes,
        scale * record.boxes[record.ignore],
        long_side=_LONG_SIDE,
    )


def ablation_section(run: Result, measured: Sequence[Measure]) -> Section | None:
    """Returns the evaluations without a part of the network, beside the paper's; None if none."""
    split = run.evaluation.figures["split"]
    folders = sorted((run.folder / "evaluation").glob(f"{glob.escape(split)}-without-*"))
    evaluations = [evaluation for folder in folders if (evaluation := read_evaluation(folder))]
    if not evaluations:
        return None
    rows = []
    for evaluation in [run.evaluation, *evaluations]:
        without = tuple(evaluation.figures.get("without", ()))
        parts = [_PARTS.get(part, part) for part in without]
        name = f"without {' and '.join(parts)}" if parts else "the whole network"
        if evaluation.step != run.evaluation.step:
            name += f" (step {evaluation.step})"
        hits = image_hits(evaluation.objects, measured).sum(axis=0)
        ours = [percent(value) for value in hits / (evaluation.objects.num_objects.sum() or np.nan)]
        paper = _PAPER.get(without, {})
        rows.append([name, *ours, Cell(tuple(f"{v} of {n}" for n, v in paper.items()) or ("–",))])
    note = (
        "Recall in per cent, of one trained network. Beside it the paper's Table 2: mAP of a "
        "detector (Fast R-CNN, ZF, VOC 2007 test) that is given so many proposals, which is "
        "another figure: their order can be compared, their values cannot."
    )
    header = ["proposals", *(m.name for m in measured), "paper: mAP"]
    return Section("Without a part of the network", [Table(header, rows, note=note)])
