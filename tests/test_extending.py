"""`docs/extending.md`: its package is trained, and found again by what uses the run."""

import doctest
import json
import pathlib
import re
import sys

import cv2
import jax
import numpy as np
import pytest

import rpn_jax
from rpn_jax import parts
from rpn_jax.__main__ import main
from rpn_jax.data.loader import train_batches
from rpn_jax.errors import UserError
from rpn_jax.parts import hash_part, import_path
from rpn_jax.runs.config_files import load_config
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.sweeps.launch import import_parts
from rpn_jax.training.begin import training_augmentations
from rpn_jax.training.build import build_detector
from rpn_jax.training.loop import training_plan
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.splits import open_split

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "extending.md"
PARTS = {
    "data.dataset": "mypackage.data:read_csv",
    "model.backbone": "mypackage.nets:Small",
    "model.neck": "mypackage.necks:TwoLevels",
    "optimizer.name": "mypackage.rules:lion",
    "optimizer.schedule": "mypackage.rules:straight",
}
AUGMENTATION = "mypackage.augment:solarize"
COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: "backend_compile" in event and COMPILED.append(event)
)


def forget(package):
    """Lets a package be imported anew, or not at all."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the page's package, its config, and a few photographs with dots."""
    home = tmp_path_factory.mktemp("extending")
    for name, code in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(code)
    (home / "mypackage" / "__init__.py").write_text("")
    photos = home / "photos"
    photos.mkdir()
    lines = []
    for number in range(9):
        image = np.full((32, 40, 3), 60, np.uint8)
        x, y = 3 * number, 2 * number
        image[y : y + 9, x : x + 9] = 230
        cv2.imwrite(str(photos / f"{number}.png"), image)
        lines.append(f"{number}.png,{x},{y},{x + 9},{y + 9},dot\n")
    (photos / "train.csv").write_text("".join(lines))
    (photos / "test.csv").write_text(lines[0])
    return home


@pytest.fixture
def at_home(home, monkeypatch):
    """Where the commands are given; the modules are found there."""
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend("")
    yield home
    forget("mypackage")


@pytest.fixture(scope="module")
def run(home):
    """The page's run: two steps, after which its package is unknown again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["prepare", "--config=small.py"]) == 0
        assert main(["train", "--config=small.py", "--workdir=runs/small"]) == 0
    forget("mypackage")
    return home / "runs" / "small"


def test_a_run_of_own_parts_keeps_their_paths_and_records_their_source(run, at_home):
    config = load_workdir_config(run)
    for field, path in PARTS.items():
        group, name = field.split(".")
        assert config[group][name] == path
    assert config.data.augmentations == ("crop", AUGMENTATION)
    (row,) = map(json.loads, (run / "runs.jsonl").read_text().splitlines())
    import mypackage.nets  # noqa: F401

    recorded = [*PARTS, "data.augmentations[1]"]
    assert row["code"]["parts"] == dict.fromkeys(recorded, hash_part(PARTS["model.backbone"]))
    assert row["data"]["train"]["dataset"] == PARTS["data.dataset"]
    assert row["data"]["train"]["images"] == 8  # of 9, by the option
    (metrics,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    line = f"mypackage.nets:Small step {metrics.pop('step')}: {json.dumps(metrics)}\n"
    assert (run / "lines.txt").read_text() == line


def test_what_uses_a_run_finds_its_parts_again(run, at_home):
    assert main(["export-weights", f"--workdir={run}", "--out=small.safetensors"]) == 0
    forget("mypackage")
    assert "mypackage.nets:Small" in repr(rpn_jax.load("small.safetensors"))
    forget("mypackage")
    assert open_split(load_workdir_config(run), "test").class_names == ("dot", "bar")


def test_a_run_goes_on_with_other_code_and_says_so(run, at_home, capsys):
    nets = at_home / "mypackage" / "nets.py"
    code = nets.read_text()
    nets.write_text(code + "# changed\n")
    try:
        assert main(["train", "--config=small.py", f"--workdir={run}"]) == 0
    finally:
        nets.write_text(code)
    said = capsys.readouterr().err
    assert "goes on with other parts than it began with: data.augmentations[1] is" in said


def test_an_object_has_an_import_path(at_home):
    from mypackage.nets import Small, wide

    assert import_path(Small) == "mypackage.nets:Small"
    for nameless in (wide, lambda: None):
        with pytest.raises(UserError, match="no module has it by a name; give it one there"):
            import_path(nameless)


@pytest.mark.parametrize(
    ("field", "path", "line"),
    [
        ("data.dataset", "nowhere.data:read", "no module nowhere; install its package, name the"),
        ("data.dataset", "mypackage.data:CLASSES", "is no function that reads a dataset"),
        ("model.backbone", "mypackage.nets", "'mypackage.nets' is unknown; use one of alexnet, zf"),
        ("model.backbone", ":Small", "give MODULE:NAME, such as mypackage.nets:my18"),
        ("model.backbone", "mypackage.net:Small", "there is no module mypackage.net; install"),
        ("model.backbone", "mypackage.nets:Smal", "has no Smal; it has functools, jnp, nn,"),
        ("model.backbone", "mypackage.nets:Stage", "cannot be called with (frozen_stages, output"),
        (
            "model.backbone",
            "mypackage.wrong:net",
            "makes no models.backbones.base.Backbone, but builtin",
        ),
        ("model.backbone", "mypackage.broken:x", "(broken.py, line 1: ZeroDivisionError: division"),
        ("model.backbone", "mypackage.typo:x", "(typo.py, line 1: SyntaxError: invalid syntax"),
        ("model.backbone", "mypackage.lost:x", "(lost.py, line 1: ModuleNotFoundError: No module"),
        ("model.backbone", "mypackage.wrong:Named", "has the stages ['s1']; name them c1, c2, …"),
        ("model.backbone", "mypackage.wrong:Bare", "the subclass has no stage_strides(); correct"),
        ("model.backbone", "mypackage.wrong:Sized", "but stage_cells() says ((20, 29),); docs/ext"),
        ("model.neck", "mypackage.nets:Small", "cannot be called with (channels, dtype, norm)"),
        ("model.neck", "mypackage.wrong:Sizes", "but grid_hw() says ((1, 1), (1, 1)); docs/ext"),
        (
            "model.neck",
            "fpn",
            "has no stage c4, but c1 to c3; give one of them as config.model.out",
        ),
        ("optimizer.name", "mypackage.rules:adam", "mypackage.rules has no adam"),
        (
            "optimizer.name",
            "optax:lion",
            "cannot be called with (schedule, momentum, weight_decay)",
        ),
        ("optimizer.name", "mypackage.wrong:rule", "makes no GradientTransformation, but dict"),
        (
            "model.backbone",
            "mypackage.wrong:Fails",
            "wrong.py, line 15: KeyError: 'c9'; correct it",
        ),
        (
            "optimizer.name",
            "mypackage.wrong:fails",
            "wrong.py, line 13: ZeroDivisionError: float",
        ),
        ("optimizer.schedule", "optax:adam", "makes no schedule, a function of the step"),
        ("optimizer.schedule", "mypackage.wrong:lost", "line 19: KeyError: 'rates'; correct it"),
        ("optimizer.schedule", "mypackage.wrong:pair", "gives no number for a step, but ("),
    ],
)
def test_a_part_that_does_not_fit_is_one_line_before_anything_is_compiled(
    at_home, run, capsys, field, path, line
):
    (at_home / "mypackage" / "broken.py").write_text("1 / 0\n")
    (at_home / "mypackage" / "typo.py").write_text("def x(:\n")
    (at_home / "mypackage" / "lost.py").write_text("import nowhere\n")
    (at_home / "mypackage" / "wrong.py").write_text(
        "from mypackage.nets import Small\n"
        "from mypackage.necks import TwoLevels\n"
        "class Named(Small):\n    def stage_strides(self): return {'s1': 2}\n"
        "class Sized(Small):\n"
        "    def stage_cells(self, size): return {'c2': 0, 'c3': size // 8}\n"
        "class Sizes(TwoLevels):\n    def grid_hw(self, grids): return ((1, 1), (1, 1))\n"
        "def net(**fields): return {}\n"
        "def rule(schedule, momentum, weight_decay): return {}\n"
        "def pair(learning_rate, steps): return lambda step: (step, step)\n"
        "def fails(schedule, momentum, weight_decay):\n    return momentum / 0\n"
        "class Fails(Small):\n    def __call__(self, images, train=False): return {}['c9']\n"
        "from rpn_jax.models.backbones.base import Backbone\n"
        "class Bare(Backbone): pass\n"
        "def lost(learning_rate, steps):\n"
        "    return lambda step: {}['rates']\n"
    )
    capsys.readouterr()
    COMPILED.clear()
    argv = ["train", "--config=small.py", "--workdir=runs/other", f"--config.{field}={path}"]
    if path == "mypackage.wrong:Sized":
        argv += ["--config.model.neck=None", "--config.rpn.anchors.sizes=(8.0,)"]
    assert main(argv) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: config.{field}{':' if ':' not in path else f'={path}: '}") or (
        path == "fpn"
    )
    assert line in said
    assert COMPILED == []
    assert not (at_home / "runs" / "other").exists()


WRONG = {
    "nothing": "returns no Sample, but NoneType; docs/extending.md has an example",
    "raises": "wrong_augment.py, line 5: KeyError: 'size'; correct it",
    "floats": "returns a Sample whose image is no uint8 array (H, W, 3), but float64 (32, 40, 3)",
    "empty": "returns a Sample whose image has no pixel",
    "boxes": "returns a Sample whose boxes are no array (n, 4), but float32 (4,)",
    "nan": "returns a Sample whose boxes are not finite",
    "fewer": "returns a Sample whose labels have the shape (1,), for 0 boxes",
    "classes": "returns a Sample whose labels are not from 0 to 1, the places of the dataset's",
    "masks": "returns a Sample whose masks are new; keep them as they are given",
    "alone": "cannot be called with (sample, rng) (too many positional arguments)",
    "turned": "returns a Sample whose boxes are not x1, y1, x2, y2: some end before they begin",
    "words": "returns a Sample whose boxes are no numbers, but ",
    "ignored": "returns a Sample whose ignore is no array of bools, but float64",
    "exits": "wrong_augment.py, line 18: SystemExit: 0; correct it",
    "reads": "wrong_augment.py, line 20: FileNotFoundError: [Errno 2]",
    "size": "cannot be called with (sample, rng) (3 is not a callable object)",
    "gone": "mypackage.wrong_augment has no gone; it has np, nothing, raises, floats, empty, boxes",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_augmentation_is_one_line_before_anything_is_compiled(at_home, run, capsys, name):
    (at_home / "mypackage" / "wrong_augment.py").write_text(
        "import numpy as np\n"
        "def nothing(sample, rng): pass\n"
        "def raises(sample, rng):\n"
        "    fields = {}\n"
        "    return fields['size']\n"
        "def floats(sample, rng): return sample._replace(image=sample.image / 2)\n"
        "def empty(sample, rng): return sample._replace(image=sample.image[:0])\n"
        "def boxes(sample, rng): return sample._replace(boxes=sample.boxes[0])\n"
        "def nan(sample, rng): return sample._replace(boxes=sample.boxes * np.nan)\n"
        "def fewer(sample, rng): return sample._replace(boxes=sample.boxes[:0])\n"
        "def classes(sample, rng): return sample._replace(labels=sample.labels + 9)\n"
        "def masks(sample, rng): return sample._replace(masks=sample.image[None, ..., 0] > 0)\n"
        "def alone(sample): return sample\n"
        "def turned(sample, rng): return sample._replace(boxes=sample.boxes[:, [2, 3, 0, 1]])\n"
        "def words(sample, rng): return sample._replace(boxes=sample.boxes.astype(str))\n"
        "def ignored(sample, rng): return sample._replace(ignore=sample.labels / 1)\n"
        "def exits(sample, rng):\n"
        "    raise SystemExit(0)\n"
        "def reads(sample, rng):\n"
        "    open('nowhere.csv')\n"
        "size = 3\n"
    )
    capsys.readouterr()
    COMPILED.clear()
    path = f"mypackage.wrong_augment:{name}"
    argv = ["train", "--config=small.py", "--workdir=runs/other"]
    assert main([*argv, f"--config.data.augmentations=('color', '{path}')"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: config.data.augmentations={path}: {WRONG[name]}")
    assert COMPILED == []
    assert not (at_home / "runs" / "other").exists()


def test_own_augmentations_show_what_they_should(at_home, run):
    config = load_workdir_config(run)
    plain, turned, solarized = (
        one_batch(config, augmentations)
        for augmentations in (
            (),
            ("mypackage.augment:upside_down",),
            ("mypackage.augment:always",),
        )
    )
    height, width = plain.image_hw[0].astype(int)
    np.testing.assert_array_equal(plain.images[:, :height][:, ::-1], turned.images[:, :height])
    x1, y1, x2, y2 = plain.gt_boxes[plain.gt_valid].T
    expected = np.stack([x1, height - y2, x2, height - y1], axis=1)
    np.testing.assert_allclose(turned.gt_boxes[turned.gt_valid], expected, atol=1e-4)
    assert plain.images.max() == 230
    assert (solarized.images[:, :height, :width] < plain.images[:, :height, :width]).any(
        axis=(1, 2, 3)
    ).sum() > 4


def one_batch(config, augmentations):
    config = config.copy_and_resolve_references()
    config.data.augmentations, config.data.flip_probability = augmentations, 0.0
    dataset = open_split(config, "train")
    plan, scales = training_plan(config, dataset)
    chosen = training_augmentations(config, dataset)
    return next(train_batches(dataset, plan, scales, augmentations=chosen, num_steps=1))


def test_more_boxes_than_there_are_slots_for_are_one_line(at_home, run, capsys):
    (at_home / "mypackage" / "twice.py").write_text(
        "import numpy as np\n"
        "def copies(sample, rng):\n"
        "    every = np.arange(9) % len(sample.boxes)\n"
        "    return sample.keep(every)\n"
    )
    capsys.readouterr()
    argv = ["train", "--config=small.py", "--workdir=runs/twice"]
    assert main([*argv, "--config.data.augmentations=('mypackage.twice:copies',)"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "config.data.augmentations make 9 boxes of 1, and there is room for 8; give con" in said


def test_the_page_of_a_preview_shows_augmented_images(at_home, run):
    flags = ["--config.data.augmentations=('mypackage.augment:upside_down',)", "--images=1"]
    assert main(["preview", "--config=small.py", "--out=seen", *flags]) == 0
    assert main(["preview", "--config=small.py", "--out=plain", flags[1], EMPTY]) == 0
    seen, plain = (
        cv2.imread(str(at_home / folder / "pictures" / "000_objects.jpg")).astype(int)
        for folder in ("seen", "plain")
    )
    assert np.abs(seen - plain).max() > 100
    text = (at_home / "seen" / "preview.md").read_text()
    assert "mypackage.augment:upside" in text


EMPTY = "--config.data.augmentations=()"


def test_alternate_refuses_a_backbone_that_has_layers_outside_its_stages(at_home, run, capsys):
    (at_home / "mypackage" / "stem.py").write_text(
        "from flax import linen as nn\n"
        "from mypackage.nets import Small\n"
        "class Stem(Small):\n"
        "    @nn.compact\n"
        "    def __call__(self, images, train=False):\n"
        "        return super().__call__(nn.Conv(3, (1, 1), name='stem')(images), train)\n"
    )
    (at_home / "stem.py").write_text(
        "from rpn_jax.runs.config import default_config\n"
        "from small import get_config as small\n"
        "def get_config():\n"
        "    config = default_config('faster_rcnn')\n"
        "    config.data = small().data\n"
        "    config.model.backbone = 'mypackage.stem:Stem'\n"
        "    return config\n"
    )
    capsys.readouterr()
    COMPILED.clear()
    flags = ["--config.batch_size=8", "--config.model.output_stage=None"]
    assert main(["alternate", "--config=stem.py", "--workdir=runs/four", *flags]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: step 3_rpn: config.model.backbone=mypackage.stem:Stem: has ")
    assert COMPILED == []


def test_a_run_whose_part_is_gone_is_one_line_for_all_that_use_it(
    run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    forget("mypackage")
    for command in (["evaluate"], ["propose", "--split=test", "--out=found"]):
        capsys.readouterr()
        assert main([*command, f"--workdir={run}"]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "=mypackage." in said
        assert ": there is no module mypackage; install its package" in said
    with pytest.raises(UserError, match="no module mypackage"):  # before any run of a sweep begins
        import_parts([load_workdir_config(run)])


def test_a_partial_is_a_part_too(at_home):
    config = load_config("small.py", ["--config.model.backbone=mypackage.nets:wide"])
    assert build_detector(config).network.backbone.width == 32
    schedule, _ = build_optimizer(config)
    np.testing.assert_allclose([schedule(0), schedule(1)], [1e-3, 5e-4], rtol=1e-6)


def test_the_examples_in_the_docstrings():
    failed, tried = doctest.testmod(parts)
    assert tried
    assert not failed
