"""Four-step alternating training: an RPN and a Fast R-CNN in turns, until they share features.

Section 3.2 of the paper. Each step is an ordinary run in a folder of its own, whose `config.json`
says what it begins from, what it freezes and which proposals it reads:

    WORKDIR/1_rpn         from config.model.pretrained, or the seed
    WORKDIR/2_fast_rcnn   from the same once more, on the proposals of 1_rpn
    WORKDIR/3_rpn         from 2_fast_rcnn, whose features stay as they are; the RPN is drawn anew
    WORKDIR/4_fast_rcnn   from 2_fast_rcnn, features and head; the features stay as they are
    WORKDIR/detector.safetensors   those features, the RPN of 3_rpn, the head of 4_fast_rcnn

A step that is done has its network in `trained.safetensors`. Whatever is written is there whole or
not at all, and what is missing follows from what is there: a run that was killed goes on. The
`runs.jsonl` of a step has the hashes of the files that it was made from, which must be those there.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rpn_jax.data.loader import num_slots
from rpn_jax.data.proposals import rows_of_npz
from rpn_jax.errors import UserError
from rpn_jax.models.backbones.resnet import STAGES
from rpn_jax.models.rcnn import variable_shapes
from rpn_jax.runs.config import of_kind
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.runs.fields import check_config
from rpn_jax.runs.history import read_run
from rpn_jax.runs.processes import StopRequest, check_alone
from rpn_jax.runs.workdir import claim_workdir, load_workdir_config, lock_workdir
from rpn_jax.text import printable
from rpn_jax.trained.detect import write_proposals
from rpn_jax.trained.export import export_weights
from rpn_jax.training.begin import check_validates
from rpn_jax.training.build import build_detector, build_network
from rpn_jax.training.features import check_features, trains_backbone
from rpn_jax.training.loop import train
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.splits import (
    check_batch_size,
    open_split,
    with_classes_of_run,
    with_known_classes,
)
from rpn_jax.weights.model_file import check_fits, flat_names, read_model, write_model
from rpn_jax.weights.sources import load_source, read_source

DETECTOR, TRAINED = "detector.safetensors", "trained.safetensors"


class Step(NamedTuple):
    """One of the four steps.

    Fields:
      folder: of its run.
      features_of: the step whose features it keeps, and whose head it begins from if that is one of
        its own kind; None: it begins as the config says, and trains all.
      proposals_of: the step whose proposals it is trained on.
    """

    folder: str
    features_of: str | None = None
    proposals_of: str | None = None

    @property
    def kind(self) -> str:
        """The `config.detector` of its run."""
        return self.folder.partition("_")[2]


STEPS = (
    Step("1_rpn"),
    Step("2_fast_rcnn", proposals_of="1_rpn"),
    Step("3_rpn", features_of="2_fast_rcnn"),
    Step("4_fast_rcnn", features_of="2_fast_rcnn", proposals_of="3_rpn"),
)
# The names by which a command line gives fields to some steps: a kind of step, or a single step.
NAMES = tuple(dict.fromkeys([*(step.kind for step in STEPS), *(step.folder for step in STEPS)]))


def alternate(
    config: ConfigDict,
    workdir: pathlib.Path,
    overrides: Mapping[str, Sequence[str]] | None = None,
) -> pathlib.Path:
    """Trains a Faster R-CNN in four steps, from where an earlier start ended; returns its file.

    Args:
        config: of the detector; each step has those of its fields that its kind has.
        workdir: the folder of the four runs.
        overrides: more for some steps: by names of `NAMES`, flags such as "--rpn.steps=80000".

    Raises:
        UserError: the config is impossible, or the folder is another's; see also `loop.train`.
        StoppedError: a signal asked it to stop; what is done is saved.
    """
    if config.detector != "faster_rcnn":
        raise UserError(
            f"config.detector: is {config.detector}, but alternating training makes a Faster "
            'R-CNN; begin the config with default_config("faster_rcnn")'
        )
    if config.joint.box_gradient:
        raise UserError(
            "config.joint.box_gradient: is of joint training; set it to False, or train instead"
        )
    check_alone("alternate")
    workdir = pathlib.Path(os.path.abspath(workdir))
    detector = workdir / DETECTOR
    with contextlib.ExitStack() as held:
        stop = held.enter_context(StopRequest())
        held.enter_context(stop.at_once("between two runs"))
        check_config(config)
        config = with_known_classes(with_classes_of_run(config, workdir / "2_fast_rcnn"))
        configs = step_configs(config, workdir, overrides or {})
        shapes = dict(flat_names(variable_shapes(build_network(config))))
        for step, own in configs.items():
            with _of_step(step):
                _check(step, own, shapes)
        lock_workdir(workdir, held)
        for step, own in configs.items():
            if (workdir / step.folder / "config.json").exists():
                _check_place(workdir, step, own)
                with claim_workdir(workdir / step.folder, own):
                    pass  # is refused now, and not days later, if it is of another config
        for done in (*(workdir / step.folder / TRAINED for step in STEPS), detector):
            if done.exists():
                _check_whole(done)
        for step in STEPS:
            if (workdir / step.folder / TRAINED).exists():
                _check_made_of(step, workdir)
            elif detector.exists():
                raise UserError(
                    f"{detector}: is there, but {step.folder} is not done; delete {DETECTOR} and "
                    "what was made from that step, to do them again, or give another --workdir"
                )
        if not detector.exists():
            for step in STEPS:
                _train(step, configs, workdir)
            _write_detector(config, workdir)
    print(printable(f"{detector}: the features and the RPN of 3_rpn, the head of 4_fast_rcnn"))
    return detector


def step_configs(
    config: ConfigDict, workdir: pathlib.Path, overrides: Mapping[str, Sequence[str]]
) -> dict[Step, ConfigDict]:
    """Returns the config of each step's run; see `alternate`."""
    configs = {}
    for step in STEPS:
        own = of_kind(config, step.kind)
        if step.features_of:
            own.model.pretrained = str(workdir / step.features_of / TRAINED)
            own.model.pretrained_head = True
            last = build_network(config).backbone.output_stages[-1]
            own.model.frozen_stages = STAGES.index(last) + 1
            own.model.frozen_neck = config.model.neck is not None
        if step.proposals_of:
            fields = own.data.proposals
            for role in ("train", "eval"):
                fields[role] = str(_proposals(workdir / step.proposals_of, role))
            fields.train_top_n = config.rpn.proposals.train.post_nms_top_n
            fields.eval_top_n = config.rpn.proposals.test.post_nms_top_n
        for name in (step.kind, step.folder):
            flags = overrides.get(name, ())
            _check_untied(step, name, flags)
            with _of_step(step):
                own = apply_overrides(own, flags, f"--{name}.")
        if own.deterministic != config.deterministic:
            raise UserError(
                f"--{step.folder}.deterministic: is of the whole process; give "
                f"--config.deterministic={own.deterministic} to all steps"
            )
        configs[step] = own
        if step.proposals_of and not own.evaluation.every:
            own.data.proposals.eval = None  # none are made
    return configs


def _proposals(folder: pathlib.Path, role: str) -> pathlib.Path:
    """Returns where a step's proposals are; `role` is "train" or "eval"."""
    return folder / "proposals" / role / "proposals.npz"


@contextlib.contextmanager
def _of_step(step: Step) -> Iterator[None]:
    """Says of a `UserError` within the block that it is of this step."""
    try:
        yield
    except UserError as error:
        raise UserError(f"step {step.folder}: {error}") from error


def _check_untied(step: Step, name: str, flags: Sequence[str]) -> None:
    """Raises a `UserError` if flags `--name.FIELD` set what ties a step to those before it."""
    tied: dict[str, str] = {}
    if step.features_of:
        why = f"{step.folder} begins from {step.features_of}, whose features it keeps"
        fields = ("pretrained", "pretrained_head", "frozen_stages", "frozen_neck")
        tied |= {f"model.{field}": why for field in fields}
    if step.proposals_of:
        why = f"{step.folder} has the proposals of {step.proposals_of}"
        tied |= {f"data.proposals.{role}": why for role in ("train", "eval")}
    first = next(other.folder for other in STEPS if other.kind == step.kind)
    for flag in flags:
        field = flag.removeprefix(f"--{name}.").partition("=")[0]
        if field in tied:
            alone = f", or give it to {first} alone" if first != step.folder else ""
            raise UserError(f"--{name}.{field}: {tied[field]}; leave it out{alone}")


def _check(step: Step, config: ConfigDict, shapes: Mapping[str, Any]) -> None:
    """Raises the `UserError` of a step's config before the first step begins.

    `shapes` has the arrays of the whole detector, of which a step after the first makes a part.
    """
    check_validates(config)
    check_batch_size("config.batch_size", config.batch_size, config.accumulation)
    build_detector(config)
    network = build_network(config)
    if step != STEPS[0]:
        for name, leaf in flat_names(variable_shapes(network)):
            if name not in shapes or shapes[name].shape != leaf.shape:
                there = shapes[name].shape if name in shapes else "none"
                raise UserError(
                    f"its {name} has the shape {leaf.shape}, that of --config {there}, but the "
                    "steps make one network; give the field that does this as --config.FIELD"
                )
    if config.model.pretrained and not step.features_of:
        load_source(config, network, read_source(config.model.pretrained))
    build_optimizer(config)
    check_features(config, network)
    if step.features_of and trains_backbone(config, network):
        raise UserError(
            f"config.model.backbone={config.model.backbone}: has parameters outside its stages, "
            f"which {step.features_of} cannot share; move them into c1, c2, …"
        )
    data = config.data
    for split in (data.train_split, data.eval_split)[: 2 if config.evaluation.every else 1]:
        num_slots(open_split(config, split, needs_objects=True), data.max_objects)


def _check_place(workdir: pathlib.Path, step: Step, config: ConfigDict) -> None:
    """Raises a `UserError` if the folder was moved, since the configs of its runs say where."""
    begun = load_workdir_config(workdir / step.folder)
    paths = [(config.model.pretrained, begun.model.pretrained)] if step.features_of else []
    if step.proposals_of and "proposals" in begun.data:
        paths.append((config.data.proposals.train, begun.data.proposals.train))
    for ours, theirs in paths:
        inside = f"/{os.path.relpath(ours, workdir)}"
        if theirs and theirs != ours and theirs.endswith(inside):
            raise UserError(
                f"{workdir}: was begun as {theirs.removesuffix(inside)}, where its runs look for "
                "each other; move it back, or make that a link to it and give that as --workdir"
            )


def _check_whole(file: pathlib.Path) -> None:
    try:
        read_model(file)
    except UserError as error:
        raise UserError(f"{error}, or delete it: the same command writes it again") from error


def _check_made_of(step: Step, workdir: pathlib.Path) -> None:
    """Raises a `UserError` if a step that is done was made from other files than lie there now."""
    folder = workdir / step.folder
    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder}: has a {TRAINED}, but no config.json; put that back, or delete the folder: "
            "the same command does the step again"
        )
    start = next(iter(read_run(folder).starts), {})
    made_of = {}
    if step.features_of:
        sha256 = (start.get("weights") or {}).get("sha256")
        made_of[workdir / step.features_of / TRAINED] = sha256
    if step.proposals_of:
        sha256 = start.get("data", {}).get("train", {}).get("proposals")
        made_of[_proposals(workdir / step.proposals_of, "train")] = sha256
    for file, sha256 in made_of.items():
        if sha256 and file.exists() and _sha256(file) != sha256:
            later = " ".join(other.folder for other in STEPS[STEPS.index(step) :])
            raise UserError(
                f"{folder}: was made from another {file}; delete that file if it is damaged, or "
                f"{later} and {DETECTOR} to do them again from it; then give the same command"
            )


def _sha256(file: pathlib.Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_proposals(file: pathlib.Path) -> None:
    try:
        rows_of_npz(file, file.read_bytes())
    except (OSError, UserError) as error:
        raise UserError(
            f"{file}: is damaged; delete it: the same command writes it again"
        ) from error


def _train(step: Step, configs: Mapping[Step, ConfigDict], workdir: pathlib.Path) -> None:
    """Does what is missing of a step: the proposals that it reads, its run, its network's file."""
    folder, config = workdir / step.folder, configs[step]
    if (folder / TRAINED).exists():
        _check_made_of(step, workdir)  # one before it may have been done again
        return
    if step.proposals_of:
        (before,) = (other for other in STEPS if other.folder == step.proposals_of)
        _propose(before, configs[before], config, workdir)
    print(printable(f"{folder}: step {step.folder[0]} of {len(STEPS)}, {config.steps} steps"))
    train(config, folder)
    export_weights(config, folder, folder / TRAINED)


def _propose(step: Step, config: ConfigDict, reader: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes those proposals of a step, as `propose --split` does, that are not there yet."""
    folder = workdir / step.folder
    roles = {"train": "train", "eval": "test"} if reader.evaluation.every else {"train": "train"}
    for role, settings in roles.items():
        split, file = reader.data[f"{role}_split"], _proposals(folder, role)
        if file.exists():
            _check_proposals(file)
        else:
            print(printable(f"{folder}: proposals of split {split}"))
            write_proposals(
                config, folder, [], file.parent, split=split, settings=settings, file_format="npz"
            )


def _write_detector(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the whole detector: the third step's network, and the head of the fourth."""
    paths = [workdir / step.folder / TRAINED for step in STEPS[2:]]
    third, fourth = (read_model(path).collections for path in paths)
    theirs = dict(flat_names(fourth))
    for name, array in flat_names(third):
        if name in theirs and not np.array_equal(array, theirs[name]):
            raise UserError(
                f"{paths[0]}: its {name} is not that of {paths[1]}, so that the two share no "
                "features; delete the folders of both, and give the same command again"
            )
    collections: dict[str, Any] = {
        name: {**third.get(name, {}), **fourth.get(name, {})} for name in {*third, *fourth}
    }
    expected = variable_shapes(build_network(config))
    check_fits(paths[1], {"batch_stats": {}, **collections}, expected)
    source = f"alternating training, {workdir}"
    write_model(workdir / DETECTOR, config, collections, source=source)
