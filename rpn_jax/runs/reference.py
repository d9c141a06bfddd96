"""The fields of a config as a reader looks them up: by group, with type, default and source.

`rpn-jax info --fields`, the help of `train` and the documentation's page of all fields are made of
this.
"""

import textwrap
from collections.abc import Mapping
from typing import NamedTuple

from rpn_jax.errors import UserError
from rpn_jax.runs.fields import FIELDS, STAGES

GROUPS: Mapping[str, str] = {
    "": "the run: what is trained, for how long, from which seed",
    "fork": "the run that this one goes on from",
    "data": "the dataset, its splits, and how images are resized, mirrored and loaded",
    "data.crop": "the augmentation crop",
    "data.color": "the augmentation color",
    "data.jitter": "large-scale jitter",
    "data.proposals": "stored proposals, for a detector without an RPN",
    "model": "backbone, neck, frozen stages, and the weights to begin with",
    "rpn": "the first stage: from features to proposals",
    "rpn.anchors": "the boxes that proposals start from",
    "rpn.targets": "which anchors are positive or negative, and how many are sampled",
    "rpn.loss": "the loss of the first stage",
    "rpn.proposals": "which boxes become proposals",
    "rpn.proposals.train": "how many, where a second stage is trained",
    "rpn.proposals.test": "how many, where the network is used",
    "box": "the second stage: from proposals to classes and refined boxes",
    "box.pooling": "features of a region of the image",
    "box.targets": "which proposals are trained on, and as what",
    "box.loss": "the loss of the second stage",
    "box.detections": "which boxes become detections",
    "joint": "both stages in one step",
    "mask": "the third stage: a mask for each detection",
    "mask.pooling": "features of a region of the image",
    "mask.targets": "the masks that are trained on",
    "mask.loss": "the loss of the third stage",
    "optimizer": "the rule, the learning rate and its schedule",
    "evaluation": "what validations measure, and how often",
    "checkpoint": "how often the state is saved, and how many are kept",
}
# The papers, by their numbers on arXiv.
PAPERS = {
    "Faster R-CNN": "1506.01497",
    "Fast R-CNN": "1504.08083",
    "FPN": "1612.03144",
    "Mask R-CNN": "1703.06870",
    "Simple copy-paste": "2012.07177",
    "SSD": "1512.02325",
    "LVIS": "1908.03195",
}


class Source(NamedTuple):
    """Where a field comes from: a key of `PAPERS`, and a section of that paper."""

    paper: str
    section: str

    def __str__(self) -> str:
        return f"{self.paper}, section {self.section}"


# Of a field, or of all fields of a group that have no entry of their own.
_SOURCES = {
    "steps": Source("Faster R-CNN", "3.1.3"),
    "batch_size": Source("Faster R-CNN", "3.1.3"),
    "data.shorter_side": Source("Faster R-CNN", "3.3"),
    "data.longer_side": Source("Fast R-CNN", "5.2"),
    "data.flip_probability": Source("Fast R-CNN", "2.3"),
    "data.jitter": Source("Simple copy-paste", "3"),
    "data.repeat_threshold": Source("LVIS", "4"),
    "data.crop": Source("SSD", "2.2"),
    "data.proposals": Source("Fast R-CNN", "2"),
    "model.backbone": Source("Faster R-CNN", "3.1"),
    "model.output_stage": Source("Faster R-CNN", "3.1"),
    "model.neck": Source("FPN", "3"),
    "model.fpn_channels": Source("FPN", "3"),
    "model.frozen_stages": Source("Faster R-CNN", "3.1.3"),
    "model.pretrained": Source("Faster R-CNN", "3.1.3"),
    "model.frozen_neck": Source("Faster R-CNN", "3.2"),
    "model.pretrained_last": Source("Faster R-CNN", "3.2"),
    "rpn.channels": Source("Faster R-CNN", "3.1"),
    "rpn.objectness": Source("Faster R-CNN", "3.1"),
    "rpn.anchors": Source("Faster R-CNN", "3.1.1"),
    "rpn.targets": Source("Faster R-CNN", "3.1.2"),
    "rpn.targets.batch_size_per_image": Source("Faster R-CNN", "3.1.3"),
    "rpn.targets.positive_fraction": Source("Faster R-CNN", "3.1.3"),
    "rpn.targets.drop_straddling": Source("Faster R-CNN", "3.3"),
    "rpn.box_weights": Source("Faster R-CNN", "3.1.2"),
    "rpn.loss": Source("Faster R-CNN", "3.1.2"),
    "rpn.proposals": Source("Faster R-CNN", "3.3"),
    "box.head": Source("Fast R-CNN", "2"),
    "box.channels": Source("Fast R-CNN", "2"),
    "box.pooling": Source("Fast R-CNN", "2.1"),
    "box.pooling.sampling_ratio": Source("Mask R-CNN", "3"),
    "box.pooling.aligned": Source("Mask R-CNN", "3"),
    "box.pooling.canonical_size": Source("FPN", "4.2"),
    "box.pooling.level_eps": Source("FPN", "4.2"),
    "box.targets": Source("Fast R-CNN", "2.3"),
    "box.box_weights": Source("Fast R-CNN", "2.3"),
    "box.loss": Source("Fast R-CNN", "2.3"),
    "box.detections": Source("Fast R-CNN", "3"),
    "joint": Source("Faster R-CNN", "3.2"),
    "mask": Source("Mask R-CNN", "3"),
    "mask.pooling.canonical_size": Source("FPN", "4.2"),
    "mask.pooling.level_eps": Source("FPN", "4.2"),
    "optimizer.name": Source("Faster R-CNN", "3.1.3"),
    "optimizer.learning_rate": Source("Faster R-CNN", "3.1.3"),
    "optimizer.momentum": Source("Faster R-CNN", "3.1.3"),
    "optimizer.weight_decay": Source("Faster R-CNN", "3.1.3"),
    "optimizer.decay_at": Source("Faster R-CNN", "3.1.3"),
    "optimizer.decay_factor": Source("Faster R-CNN", "3.1.3"),
    "evaluation.top_ns": Source("Faster R-CNN", "4.1"),
}


class Entry(NamedTuple):
    """A field, ready to be shown.

    Fields:
      name: such as "rpn.anchors.sizes".
      kind: the name of its Python type.
      default: as Python writes it.
      words: what it may be.
      meaning: what it does.
      source: the paper's section; None of what no paper has.
    """

    name: str
    kind: str
    default: str
    words: str
    meaning: str
    source: Source | None


def source_of(name: str) -> Source | None:
    """Returns where a field, or the nearest group that it is in, comes from."""
    while name and name not in _SOURCES:
        name = name.rpartition(".")[0]
    return _SOURCES.get(name)


def entries(group: str | None = None) -> list[Entry]:
    """Returns the fields that stand in a group itself ("" for those in none), or all of them."""
    return [
        Entry(
            name,
            rule.kind.__name__,
            repr(default),
            f"{rule.words}{', or None' if default is None else ''}",
            meaning,
            source_of(name),
        )
        for name, (default, rule, meaning) in FIELDS.items()
        if group in (None, name.rpartition(".")[0])
    ]


def detectors_with(group: str) -> list[str]:
    """Returns the kinds of detectors whose configs have a group."""
    of_stages = {name for groups in STAGES.values() for name in groups}
    part = next((name for name in of_stages if f"{group}.".startswith(f"{name}.")), None)
    return [kind for kind, groups in STAGES.items() if part is None or part in groups]


def list_fields(group: str = "") -> str:
    """Returns every field of a group ("optimizer", "rpn.targets"), or of all, as text.

    Raises:
        UserError: there is no such group.
    """
    group = group.removeprefix("--").removeprefix("config.").strip(".")
    chosen = [
        entry
        for entry in entries()
        if not group or entry.name == group or entry.name.startswith(f"{group}.")
    ]
    if not chosen:
        raise UserError(f"--fields={group}: give one of {', '.join(filter(None, GROUPS))}")
    lines = []
    for entry in chosen:
        source = f"; {entry.source}" if entry.source else ""
        text = f"{entry.meaning} ({entry.kind}: {entry.words}{source})"
        lines.append(f"--config.{entry.name}={FIELDS[entry.name].default}")
        lines += textwrap.wrap(text, 96, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def groups_help() -> str:
    """Returns the groups at the top of a config, a line each, for the help of a command."""
    top = {name: words for name, words in GROUPS.items() if name and "." not in name}
    width = max(map(len, top))
    lines = [f"  {name:{width}}  {words}" for name, words in top.items()]
    return "\n".join(
        [
            "groups of fields (--config.GROUP.FIELD=VALUE):",
            *lines,
            "rpn-jax info --fields=GROUP lists those of one, with type, default and meaning.",
        ]
    )
