"""Detectors on the command line and in Python: what a user gets, and one line for what is wrong."""

import json
import shutil

import cv2
import jax
import numpy as np
import pytest
from documents import DOCUMENTS, blocks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from training.small import (
    BOX,
    FIELDS,
    PYRAMID,
    small_config,
    small_detector_config,
    small_mask_config,
)

import rpn_jax
from rpn_jax.__main__ import main
from rpn_jax.errors import UserError
from rpn_jax.evaluation.figures import Figures
from rpn_jax.models.rcnn import variable_shapes
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import load_config
from rpn_jax.runs.workdir import claim_workdir
from rpn_jax.sweeps.definition import load_sweep
from rpn_jax.training.build import build_detector, build_measurement, build_network
from rpn_jax.training.evaluate import measures_masks
from rpn_jax.training.splits import open_split, with_classes, with_classes_of_run
from rpn_jax.weights.class_names import check_renamed
from rpn_jax.weights.model_file import write_model

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: "backend_compile" in event and COMPILED.append(event)
)
DATA = "car", "cat", "dog"  # classes of the folder `data`, in its order
IDS = 3, 7, 18


@pytest.fixture
def fails(capsys):
    """Runs a command that must fail before it compiles, and returns the one line that it says."""

    def run(*argv: object) -> str:
        capsys.readouterr()
        COMPILED.clear()
        assert main(list(map(str, argv))) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert COMPILED == []
        return line.removeprefix("error: ")

    return run


@pytest.fixture
def data(coco):
    """A COCO folder with an image without objects, and a class of which there is no object."""
    coco.content["categories"].append({"id": 7, "name": "cat"})
    coco.content["images"].append({"id": 60, "file_name": "r.jpg", "height": 30, "width": 40})
    coco.image("r.jpg").write_bytes(coco.image("p.jpg").read_bytes())
    for row in coco.content["annotations"]:  # as in every file of COCO
        row.setdefault("iscrowd", 0)
        row.setdefault("area", row["bbox"][2] * row["bbox"][3])
    coco.write()
    return coco


@pytest.fixture
def flags(data, tmp_path):
    """The flags of `train` for a small detector of the folder's classes."""
    file = tmp_path / "detector.py"
    file.write_text(
        "from rpn_jax.runs.config import default_config\n"
        "def get_config():\n    return default_config('faster_rcnn')\n"
    )
    small = [flag for flag in (*FIELDS, *BOX) if "class_names" not in flag]
    return (
        f"--config={file}",
        "--config.data.dataset=coco_json",
        f"--config.data.source={data.root}",
        f"--config.data.data_dir={tmp_path / 'prepared'}",
        "--config.data.train_split=val",
        "--config.data.eval_split=val",
        *small,
        "--config.data.longer_side=48",  # one canvas for all, so that little is compiled
        "--config.batch_size=8",
        "--config.steps=2",
        "--config.evaluation.every=0",
    )


def model_file(config, path):
    """Writes a model file whose arrays are zeros."""
    shapes = variable_shapes(build_network(config))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    write_model(path, config, zeros, source="a test", step=5)
    return path


def coco_evaluation(data, results, **params):
    """pycocotools' counts of a file of results, against the annotations of the data's own file."""
    annotated = COCO(str(data.file))
    evaluation = COCOeval(annotated, annotated.loadRes(str(results)), "bbox")
    for name, value in params.items():
        setattr(evaluation.params, name, value)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def recall_by_pycocotools(data, proposals):
    """Its average recall of a file of proposals, by the names that `evaluate` gives it."""
    evaluation = coco_evaluation(data, proposals, useCats=0, maxDets=[10, 50])
    recall = evaluation.eval["recall"][:, 0].mean(axis=0)  # of each size and number, or -1
    return {
        f"AR{size}@{n}": recall[s, i]
        for s, size in enumerate(("", "_small", "_medium", "_large"))
        for i, n in enumerate((10, 50))
        if recall[s, i] >= 0
    }


def run_shown_blocks(model, photo, folder, monkeypatch):
    """Runs the blocks of the documents that use a trained network, of whatever run, as this one."""
    shutil.copy(photo, folder / "photo.jpg")
    figures = Figures("AP", {"AP": 0.5, "AR@100": 0.5}, "a table", {})
    shown = [
        block.text
        for document in DOCUMENTS
        for block in blocks(document, "python")
        if "rpn_jax.load" in block.text and "rpn_jax.train" not in block.text
    ]
    assert len(shown) >= 4
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(rpn_jax, "load", lambda place: model)
        patch.setattr(rpn_jax.Model, "evaluate", lambda model, split: figures)
        for text in shown:
            exec(text, {"rpn_jax": rpn_jax})
    assert (folder / "mine.safetensors").exists()


@pytest.mark.compiles
def test_from_annotations_to_detections(data, flags, tmp_path, capsys, monkeypatch):
    workdir, out, photos = tmp_path / "run", tmp_path / "out", data.root / "val"
    flags = (*flags, "--config.model.output_stage=c1")  # compiles in less time
    assert main(["prepare", *flags]) == 0
    assert main(["train", *flags, f"--workdir={workdir}"]) == 0
    box = json.loads((workdir / "config.json").read_text())["box"]
    assert (box["class_names"], box["category_ids"]) == ([*DATA], [*IDS])
    capsys.readouterr()

    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    table = capsys.readouterr().out
    for text in ("AP", "VOC", "pycocotools", *DATA):
        assert text in table
    figures = json.loads((workdir / "evaluation" / "val" / "figures.json").read_text())
    assert figures["headline"] == "AP"
    assert main(["status", str(workdir)]) == 0
    assert main(["report", str(workdir), f"--out={out / 'report'}"]) == 0
    assert "AP50" in next((out / "report").glob("*.md")).read_text()

    # What `detect` writes of a run and of its model file are the source's own ids and names.
    weights = tmp_path / "model.safetensors"
    assert main(["export-weights", f"--workdir={workdir}", f"--out={weights}"]) == 0
    for place in (f"--workdir={workdir}", f"--weights={weights}"):
        drawn = f"--folder={photos}", f"--out={out / place[2:9]}", "--draw_above=0.1"
        assert main(["detect", place, *drawn]) == 0
    rows, again = (
        json.loads((out / name / "detections.json").read_text()) for name in ("workdir", "weights")
    )
    assert rows == again
    assert rows
    name_of = dict(zip(IDS, DATA, strict=True))
    assert all(name_of[row["category_id"]] == row["category"] for row in rows)
    pictures = {path.stem for path in (out / "workdir" / "pictures").iterdir()}
    assert pictures == {"p", "q", "r"}

    # Python finds the same in a file, an array, a list and a folder.
    model = rpn_jax.load(workdir)
    assert model.class_names == DATA
    path = data.image("p.jpg")
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    found = model.detect(path)
    assert isinstance(found, rpn_jax.Detected)
    expected = [row for row in rows if row["file_name"] == str(path)]
    assert list(found.names) == [row["category"] for row in expected]
    np.testing.assert_allclose(found.scores, [row["score"] for row in expected], atol=1e-5)
    of_list = model.detect([path, pixels])
    assert [each.path for each in of_list] == [path, None]
    for each in (*of_list, model.detect(pixels), model.detect(photos)[0]):
        np.testing.assert_allclose(each.boxes, found.boxes, atol=1e-3)
        np.testing.assert_array_equal(each.labels, found.labels)

    run_shown_blocks(model, path, tmp_path, monkeypatch)

    # The RPN of a detector proposes by itself.
    assert main(["propose", f"--workdir={workdir}", str(path), f"--out={out}", "--draw=0"]) == 0
    proposals = json.loads((out / "proposals.json").read_text())
    assert [row["score"] for row in proposals] == pytest.approx(model.propose(path).scores)

    # pycocotools takes what is found in a split beside the data's own file, and counts as we do.
    split = f"--workdir={workdir}", "--split=val", f"--out={out / 'val'}"
    assert main(["propose", *split]) == 0
    # The ids are those of the split's data, also for a network that was trained with others.
    assert main(["detect", *split, "--config.box.category_ids=(7, 18, 3)"]) == 0
    proposals, detections = (out / "val" / f"{kind}s.json" for kind in ("proposal", "detection"))
    recall = recall_by_pycocotools(data, proposals)
    assert recall == pytest.approx(
        {name: figures["scalars"][f"proposals_{name}"] for name in recall}
    )
    precision = coco_evaluation(data, detections).eval["precision"][..., 0, -1]
    assert precision[precision >= 0].mean() == pytest.approx(figures["scalars"]["AP"])

    exported = out / "detector.jax"
    sizes = "--image_size=48x48", "--platforms=cpu"
    assert main(["export", f"--workdir={workdir}", f"--out={exported}", *sizes]) == 0
    names = json.loads((out / "detector.jax.classes.json").read_text())
    assert names == {"1": "car", "2": "cat", "3": "dog"}
    function = jax.export.deserialize(exported.read_bytes())
    canvas, image_hw = np.zeros((1, 48, 48, 3), np.uint8), np.float32([[36, 48]])
    found = function.call(canvas, image_hw)
    assert set(found["labels"][found["valid"]].tolist()) <= {1, 2, 3}
    assert found["boxes"].shape == (1, 10, 4)


@pytest.mark.compiles
def test_pycocotools_counts_the_proposals_of_a_split_as_evaluate_does(data, tmp_path, capsys):
    anchors = "model.output_stage=c3", "rpn.anchors.sizes=(6.0,17.0)", "data.longer_side=48"
    best = "rpn.proposals.test.post_nms_top_n=50"
    config = small_config(*(f"--config.{field}" for field in (*anchors, best)))
    weights = model_file(config, tmp_path / "rpn.safetensors")  # proposes its anchors
    of_data = (
        "--config.data.dataset=coco_json",
        f"--config.data.source={data.root}",
        f"--config.data.data_dir={tmp_path / 'prepared'}",
        "--config.data.train_split=val",
        "--config.data.eval_split=val",
    )
    place = f"--weights={weights}", "--split=val", *of_data
    assert main(["prepare", "--config=voc07_vgg16", *of_data]) == 0
    assert main(["propose", *place, f"--out={tmp_path / 'out'}"]) == 0
    recall = recall_by_pycocotools(data, tmp_path / "out" / "proposals.json")
    assert 0 < recall["AR@50"] < 1

    capsys.readouterr()
    assert main(["evaluate", *place, f"--out={tmp_path / 'evaluation'}"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in ("AR@10", "AR@50"):
        assert [name, *2 * [f"{100 * recall[name]:.3f}"]] in rows
    figures = json.loads((tmp_path / "evaluation" / "figures.json").read_text())
    assert recall == pytest.approx(figures["scalars"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "box.class_names=('dog','car')",
            "coco_json: has cat among its classes, but the detector knows only dog, car; add "
            "them to config.box.class_names, or set that to ()",
        ),
        ("box.class_names=('dog','car','dog')", "config.box.class_names: has 'dog' twice"),
        ("box.class_names=('dog','')", "give names, such as ('cat', 'dog')"),
        ("box.class_names=dog,car", "give a tuple of names, such as ('cat', 'dog')"),
        ("box.category_ids=(1,2,3)", "number of ids is 3, but that of config.box.class_names is 0"),
        ("box.pooling.kind=pool", "RoIPool has no pyramid of levels; give"),
        ("box.head=c5", 'config.box.head: "c5" is the last stage of a ResNet whose output is c4'),
        ("box.targets.lowest_bg_iou=0.6", "give at most config.box.targets.bg_iou_threshold"),
        ("box.targets.batch_size_per_image=41", "give at most config.rpn.proposals.train.post"),
        ("box.chanels=3", "did you mean --config.box.channels=…?"),
        ("box=3", "--config.box: is a group of fields, such as --config.box."),
        ("data.data_dir=/nowhere", "run rpn-jax prepare --config="),
    ],
)
def test_a_detectors_field_that_does_not_fit(given, said, flags, fails, tmp_path):
    assert main(["prepare", *flags]) == 0
    more = PYRAMID if "pool" in given else ()
    workdir = tmp_path / "run"
    line = fails("train", *flags, *more, f"--workdir={workdir}", f"--config.{given}")
    assert said in line
    assert not workdir.exists()


@pytest.mark.parametrize("command", ["info", "anchors", "compile"])
def test_a_detector_whose_data_are_not_prepared(command, flags, fails):
    more = ["--topology=v5e:2x2"] if command == "compile" else []
    assert "run rpn-jax prepare --config=" in fails(command, *flags, *more)


def test_a_second_stages_field_in_the_config_of_an_rpn(fails, tmp_path):
    said = 'this detector has no such field; begin with default_config("faster_rcnn"), which has it'
    line = fails(
        "train", "--config=shapes", f"--workdir={tmp_path / 'a'}", "--config.box.channels=8"
    )
    assert line == f"--config.box.channels: {said}"
    file = tmp_path / "mine.py"
    file.write_text(
        "from rpn_jax.runs.config import default_config\n"
        "def get_config():\n    c = default_config()\n    c.box.channels = 8\n    return c\n"
    )
    line = fails("train", f"--config={file}", f"--workdir={tmp_path / 'a'}")
    assert line.endswith(f"mine.py, line 4: c.box.channels = 8: {said}")


def test_a_work_folder_of_an_rpn(flags, fails, tmp_path):
    assert main(["prepare", *flags]) == 0
    workdir = tmp_path / "run"
    rpn = small_config(*(flag for flag in flags[1:] if ".box." not in flag))
    with claim_workdir(workdir, rpn):
        pass
    line = fails("train", *flags, f"--workdir={workdir}")
    assert "was begun with another config (detector: faster_rcnn here, rpn there); give" in line


def test_checkpoints_without_a_config(flags, fails, tmp_path):
    assert main(["prepare", *flags]) == 0
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
    line = fails("train", *flags, f"--workdir={tmp_path / 'run'}")
    assert "run: has checkpoints, but no config.json" in line


def test_an_unknown_kind_of_detector():
    with pytest.raises(UserError, match="'nonsense' is unknown; use rpn, .*mask_rcnn, fast_rcnn"):
        default_config("nonsense")


def test_ids_come_from_the_data_where_the_config_has_names_alone(flags):
    assert main(["prepare", *flags]) == 0
    names = "car", "bus", "cat", "dog"
    config = load_config(
        flags[0].partition("=")[2], [*flags[1:], f"--config.box.class_names={names}"]
    )
    dataset = open_split(config, "val")
    config = with_classes(config, dataset)
    assert config.box.class_names == names
    assert config.box.category_ids == (3, "bus", 7, 18)
    assert dataset[0].labels.tolist() == [3, 0]
    assert len(dataset[2].labels) == 0 or len(dataset[1].labels) == 0


def test_data_without_masks_are_measured_by_boxes_and_not_trained_on(flags, capsys):
    assert main(["prepare", *flags]) == 0
    config = small_mask_config(*flags[1:], f"--config.box.class_names={DATA}")
    with pytest.raises(
        UserError, match="^coco_json: split 'val' has no masks that can be used, by which"
    ):
        open_split(config, "val")
    dataset = open_split(config, "val", needs_masks=False)
    assert len(dataset) == 3
    capsys.readouterr()
    assert not measures_masks(config, dataset)
    said = "coco_json val: has no masks; boxes and proposals alone are measured\n"
    assert capsys.readouterr().err == said
    parts = build_measurement(config, of_masks=False).share()
    assert parts.keys() == {"proposals", "detections"}


def test_a_network_without_classes_does_not_detect(fails, tmp_path):
    image = tmp_path / "a.jpg"
    image.touch()
    weights = model_file(small_config(), tmp_path / "rpn.safetensors")
    line = fails("detect", f"--weights={weights}", image, f"--out={tmp_path / 'out'}")
    said = f"{weights}: holds an RPN, which proposes boxes and knows no classes"
    assert line.startswith(said)
    with pytest.raises(UserError, match=said):
        rpn_jax.load(weights).detect(image)


def test_an_overridden_class_name_of_a_trained_detector(flags, fails, tmp_path):
    assert main(["prepare", *flags]) == 0
    weights = model_file(small_detector_config(), tmp_path / "detector.safetensors")
    trained = "evaluate", f"--weights={weights}", f"--out={tmp_path / 'out'}", *flags[1:5]
    line = fails(*trained, "--config.data.eval_split=val", "--config.evaluation.batch_size=8")
    assert line.startswith(
        "coco_json: has car, cat, dog among its classes, but the detector knows only dark"
    )


DARK = small_detector_config().box.class_names  # of a detector that data of no names trained


@pytest.mark.parametrize("command", ["evaluate", "detect"])
def test_a_trained_detectors_classes_keep_their_places(command, fails, tmp_path):
    weights = model_file(small_detector_config(), tmp_path / "detector.safetensors")

    image = [tmp_path] if command == "detect" else []
    (tmp_path / "a.jpg").touch()

    def said(names):
        given = f"--config.box.class_names={tuple(names)}"
        return fails(command, f"--weights={weights}", f"--out={tmp_path / 'out'}", given, *image)

    moved = f"--config.box.class_names: has {DARK[1]!r} in the place of {DARK[0]!r}, but {weights}"
    assert said((DARK[1], DARK[0], *DARK[2:])).startswith(moved)
    for names in (DARK[:-1], (*DARK, "other")):
        line = said(names)
        assert line.startswith(f"--config.box.class_names: are {len(names)}, but {weights} was ")


def test_a_trained_detectors_classes_can_be_renamed():
    check_renamed("a.safetensors", ("car", "Cat", "dog"), DATA)


@pytest.mark.parametrize(
    "names",
    [("dog", "cat", "car"), ("car", "cat", "dog", "bus"), ("car", "cat", "hound")],
)
def test_a_run_that_was_begun_with_other_classes(names, flags, fails, tmp_path):
    assert main(["prepare", *flags]) == 0
    workdir, given = tmp_path / "run", f"--config.box.class_names={names}"
    begun = load_config(flags[0].partition("=")[2], [*flags[1:], given])
    begun.box.category_ids = names
    with claim_workdir(workdir, begun):
        pass
    line = fails("train", *flags, f"--workdir={workdir}", f"--config.box.class_names={DATA}")
    assert "was begun with another config (box.category_ids: " in line
    assert "box.class_names: ['car', 'cat', 'dog'] here, " in line
    # Without classes of its own the config takes those of the run; data are mapped by name.
    config = load_config(flags[0].partition("=")[2], flags[1:])
    config = with_classes_of_run(config, workdir)
    assert config.box.class_names == names
    if "hound" in names:
        with pytest.raises(UserError, match="^coco_json: has dog among its classes, but the det"):
            open_split(config, "val")
    else:
        assert open_split(config, "val")[0].labels.tolist() == [
            names.index("dog"),
            names.index("car"),
        ]


def test_a_detector_as_pretrained_weights_of_an_rpn_and_the_reverse(tmp_path):
    from rpn_jax.training.build import load_pretrained

    detector = model_file(small_detector_config(), tmp_path / "detector.safetensors")
    rpn = model_file(small_config(), tmp_path / "rpn.safetensors")
    config = small_config(f"--config.model.pretrained={detector}")
    parts = load_pretrained(config, build_network(config)).collections["params"]
    assert parts.keys() == {"backbone", "rpn"}
    config = small_detector_config(f"--config.model.pretrained={rpn}")
    parts = load_pretrained(config, build_network(config)).collections["params"]
    assert parts.keys() == {"backbone", "rpn"}


def test_a_sweep_over_fields_of_the_second_stage(tmp_path):
    file = tmp_path / "sweep.py"
    file.write_text(
        "from rpn_jax.sweeps.definition import Sweep, grid\n"
        "def get_sweep():\n"
        "    return Sweep('shapes_faster_rcnn', [grid({'box.loss.balance': (1.0, 2.0)})])\n"
    )
    plan = load_sweep(str(file))
    assert [run.folder for run in plan.runs] == ["box.loss.balance=1", "box.loss.balance=2"]
    assert [config.box.loss.balance for config in plan.configs] == [1.0, 2.0]
    file.write_text(file.read_text().replace("shapes_faster_rcnn", "shapes"))
    with pytest.raises(UserError, match="this detector has no such field"):
        load_sweep(str(file))


def test_roi_pool_and_c5_of_the_networks_that_have_them():
    for given in (
        ["model.backbone=vgg16", "model.norm=None", "model.output_stage=None", "box.head=c5"],
        ["model.output_stage=c5", "box.head=c5"],
    ):
        flags = [f"--config.{field}" for field in given]
        with pytest.raises(UserError, match='config.box.head: "c5" is the last stage of a ResNet'):
            build_detector(small_detector_config(*flags))
    build_detector(small_detector_config("--config.model.output_stage=c4", "--config.box.head=c5"))
