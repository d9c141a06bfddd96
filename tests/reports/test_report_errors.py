"""What `report` says where there is nothing to report on, and of what was changed."""

import json

import numpy as np
import pytest
from studies import STEPS, begun, evaluated

from rpn_jax.__main__ import main
from rpn_jax.files import write_npz


@pytest.fixture
def fails(capsys):
    """Runs `report`, which must fail, and returns the one line that it says."""

    def run(*argv):
        assert main(["report", *map(str, argv)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_a_folder_that_holds_no_runs(fails, tmp_path):
    assert "holds no runs" in fails(tmp_path)
    assert "no such folder" in fails(tmp_path / "nowhere")


def test_a_run_that_was_not_evaluated(fails, source, tmp_path):
    folder = begun(tmp_path / "a run", source)
    (folder / "checkpoints" / str(STEPS)).mkdir(parents=True)
    # A command that can be copied, whatever the folder is called.
    assert f"not evaluated; rpn-jax evaluate '--workdir={folder}'" in fails(folder)


def test_a_run_that_died_in_its_first_step(fails, source, tmp_path):
    assert "stopped before a step was logged" in fails(begun(tmp_path / "run", source, last=0))


def test_an_evaluation_of_another_version(fails, source, dataset, tmp_path):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7)
    (folder / "evaluation/train/objects.npz").unlink()
    assert "objects.npz: no such file; evaluate the run (again)" in fails(folder)


@pytest.mark.parametrize(
    "change",
    [
        "[]",
        "{}",
        "[" * 100_000,
        {"scalars": {"AR@10": "high"}},
        {"headline": None},
        {"recall": {"all": {"many": [0.5]}}},
        {"recall": {"all": {}}},
        {"dataset": None},
        {"step": "40"},
    ],
)
def test_figures_that_were_changed(fails, source, dataset, tmp_path, change):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7)
    (file,) = (folder / "evaluation/train").glob("*.json")
    whole = json.loads(file.read_text())
    file.write_text(change if isinstance(change, str) else json.dumps({**whole, **change}))
    assert "damaged" in fails(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": None},
        {"classes": [{"name": "cat", "objects": 1, "AP": "high"}]},
        {"errors": {}},
        {"precision": {"0.50": [0.5]}},
    ],
)
def test_figures_of_detections_that_were_changed(fails, source, dataset, tmp_path, change):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7, detects=True)
    (file,) = (folder / "evaluation/train").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert "damaged" in fails(folder)


def test_detections_of_other_images(fails, source, dataset, tmp_path):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7, detects=True)
    file = folder / "evaluation/train/detections.npz"
    with np.load(file) as arrays:
        write_npz(file, **{**arrays, "image_id": arrays["image_id"] + 99})
    assert "detections.npz: is of other images" in fails(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"image_index": np.full(6, 5, np.int32)},
        {"class_index": np.full(6, -1, np.int16)},
        {"rank": np.zeros((6, 9), np.uint16)},
        {"box": np.zeros((5, 4), np.float32)},
        {"num_objects": np.zeros(4, np.int32)},
        {"area": np.array(6 * ["large"])},
    ],
)
def test_objects_that_do_not_belong_together(fails, source, dataset, tmp_path, change):
    folder = begun(tmp_path / "run", source)
    evaluated(folder, dataset, 0.7)
    file = folder / "evaluation/train/objects.npz"
    with np.load(file) as arrays:
        write_npz(file, **{**arrays, **change})
    assert "objects.npz: cannot be read" in fails(folder)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "[" * 100_000,
        {"runs": [None]},
        {"runs": [{"folder": 3, "setting": "", "overrides": {}}]},
        {"base": "nowhere"},
        {"published": {"source": "nowhere"}},
        {"runs": [{"folder": "../other", "setting": "a", "overrides": {}}], "base": "../other"},
    ],
)
def test_a_sweep_that_was_changed(sweep, tmp_path, capsys, content):
    if not isinstance(content, str):
        content = json.dumps(json.loads((sweep[0] / "sweep.json").read_text()) | content)
    (tmp_path / "sweep.json").write_text(content)
    is_of_report = "nowhere" in content  # `status` looks at other entries
    for command in ("report",) if is_of_report else ("report", "status"):
        assert main([command, str(tmp_path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "sweep.json: is damaged (" in line


def test_several_folders_need_a_place(fails, tmp_path):
    assert "--out: is not given" in fails(tmp_path, tmp_path)
