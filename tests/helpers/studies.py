"""Runs and sweeps as a training would leave them, with evaluations that are written by hand."""

import csv
import html.parser
import json

import numpy as np
from training.small import small_config

from rpn_jax.evaluation.objects import concatenate, image_objects
from rpn_jax.evaluation.precision import ImageDetections, PrecisionMeasurement
from rpn_jax.evaluation.recall import ImageProposals, RecallSums, image_recall
from rpn_jax.files import write_npz, write_text
from rpn_jax.runs.config_files import to_json

STEPS = 40
TOP_NS = (10, 300)
STARTED = {
    "command": ["rpn-jax", "train", "--config=small.py", "--config.data.source=A FOLDER"],
    "step": 0,
    "code": {"commit": "c0ffee", "local_changes": None, "source": "abc"},
    "packages": {"jax": "0.10.2"},
    "data": {"train": {"dataset": "voc_folder", "split": "train", "images": 5, "objects": 7}},
    "weights": None,
    "machine": {"devices": {"cpu": 1}, "host": "here"},
    "environment": {},
}


def proposals(record, share):
    """Proposals that cover that share of each object, and of the difficult one; or no object."""
    if share is None:
        nothing = np.zeros(0, np.float32)
        no_boxes = nothing.reshape(0, 4)
        return ImageProposals(
            record.image_id, no_boxes, nothing, no_boxes, np.zeros(0, bool), nothing
        )
    boxes = record.boxes.copy()
    boxes[:, 2] -= (1 - share) * (boxes[:, 2] - boxes[:, 0])
    scores = np.linspace(0.9, 0.1, len(boxes)).astype(np.float32)
    return ImageProposals(record.image_id, boxes, scores, record.boxes, record.ignore, record.areas)


def of_detections(images, records, class_names):
    measurement = PrecisionMeasurement(class_names)
    for image, record in zip(images, records, strict=True):
        objects = len(image.gt_boxes)
        labels = (record.labels + np.arange(len(record.labels)) % 2) % len(class_names)
        measurement.add(
            ImageDetections(
                *image[:3],
                labels[: len(image.boxes)],
                image.gt_boxes,
                record.labels[:objects],
                *image[4:],
            )
        )
    return measurement.result()


def evaluated(
    folder, dataset, share, step=STEPS, name="train", without=(), detects=False, masks=False
):
    """What `evaluate` would leave of a network whose proposals cover a share of every object.

    With `detects`, its detections are these proposals, half of them of the other class. With
    `masks`, their masks are measured to be as good.
    """
    records = [dataset[i] for i in range(len(dataset))]
    images = [proposals(record, share) for record in records]
    sums = sum((image_recall(image, TOP_NS) for image in images), RecallSums.empty(TOP_NS))
    ranks = concatenate(
        [
            image_objects(i, image, record.labels[: len(image.gt_boxes)], max(TOP_NS))
            for i, (image, record) in enumerate(zip(images, records, strict=True))
        ]
    )
    figures = {"dataset": "voc_folder", "split": "train", "without": without, "step": step}
    figures |= {"seconds": 2.5, **sums.result().figures().to_json()}
    if detects:
        measured = of_detections(images, records, dataset.class_names)
        of_masks = {f"masks_{key}": array for key, array in measured.arrays.items()}
        arrays = {**measured.arrays, **(of_masks if masks else {})}
        write_npz(folder / "evaluation" / name / "detections.npz", **arrays)
        precise = measured.to_json()
        if masks:
            precise["masks"] = measured.details
            named = {f"masks_{key}": value for key, value in measured.scalars.items()}
            precise["scalars"] = {**precise["scalars"], **named}
        proposed = {f"proposals {name}": value for name, value in figures["scalars"].items()}
        figures |= precise | {"scalars": {**precise["scalars"], **proposed}}
    place = folder / "evaluation" / name
    write_npz(place / "objects.npz", **ranks._asdict(), class_names=np.array(dataset.class_names))
    write_text(place / "figures.json", json.dumps(figures))


def begun(folder, source, *overrides, last=STEPS):
    """A run that has logged its steps up to `last`."""
    config = small_config(
        "--config.data.dataset=voc_folder",
        f"--config.data.source={source[0]}",
        f"--config.data.data_dir={source[1]}",
        "--config.data.eval_split=train",
        f"--config.steps={STEPS}",
        *overrides,
    )
    write_text(folder / "config.json", to_json(config))
    write_text(folder / "runs.jsonl", json.dumps(STARTED) + "\n")
    rows = []
    for step in range(10, last + 1, 10):
        rows.append({"step": step, "train/loss": 1 / step, "train/seconds": float(step)})
        rows[-1] |= {"train/images_per_second": 4.0, "train/peak_memory_bytes": 3 * 2**29}
        rows.append({"step": step, "validation/loss": 0.5, "validation/AR@10": step / 100})
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def a_sweep(out, source, dataset, shares, seeds=2, published=None, detects=False):
    """A sweep over lambda, each setting's proposals covering a share; those of None have failed."""
    runs = []
    for balance, share in shares.items():
        for seed in range(seeds):
            setting = f"rpn.loss.balance={balance}"
            folder = out / f"{setting},seed={seed}"
            overrides = {"rpn.loss.balance": float(balance), "seed": seed}
            runs.append({"folder": folder.name, "setting": setting, "overrides": overrides})
            fields = [f"--config.{field}={value}" for field, value in overrides.items()]
            begun(folder, source, *fields, last=0 if share is None else STEPS)
            if share is not None:
                evaluated(folder, dataset, share, detects=detects)
            else:
                end = {"state": "failed", "reason": f"no <luck> | with seed {seed}"}
                write_text(out / "state" / folder.name / "end.json", json.dumps(end))
    overrides = {"rpn.loss.balance": 9.0, "seed": 0}
    runs.append({"folder": "rpn.loss.balance=9,seed=0", "setting": "rpn.loss.balance=9"})
    runs[-1]["overrides"] = overrides
    facts = {"config": "small.py", "fixed": {}, "given": [], "fields": ["rpn.loss.balance", "seed"]}
    facts |= {"seed_field": "seed", "base": runs[0]["folder"], "runs": runs}
    if published:
        facts["published"] = published.to_json()
    write_text(out / "sweep.json", json.dumps(facts))
    return out


def rows_of(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order and takes note of tables, pictures and links."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.images, self.tags, self.ids = [], [], [], set(), []
        self.links = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        if tag not in ("meta", "link", "img", "br", "wbr"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "img":
            assert attributes["alt"]
            self.images.append(attributes["src"])
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if "href" in attributes:
            self.links.append(attributes["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data
