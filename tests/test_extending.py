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
from rpn_jax.errors import UserError
from rpn_jax.parts import hash_part, import_path
from rpn_jax.runs.config_files import load_config
from rpn_jax.runs.workdir import load_workdir_config
from rpn_jax.sweeps.launch import import_parts
from rpn_jax.training.build import build_detector
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
    (row,) = map(json.loads, (run / "runs.jsonl").read_text().splitlines())
    import mypackage.nets  # noqa: F401

    assert row["code"]["parts"] == dict.fromkeys(PARTS, hash_part(PARTS["model.backbone"]))
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
    assert "goes on with other parts than it began with: data.dataset is" in capsys.readouterr().err


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
