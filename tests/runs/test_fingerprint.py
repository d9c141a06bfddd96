import hashlib
import json
import pathlib
import re
import subprocess
import tomllib

import numpy as np
import pytest
from training.small import small_config, small_detector_config, small_mask_config

from rpn_jax.data.datasets import Dataset
from rpn_jax.errors import UserError
from rpn_jax.runs import fingerprint, processes

ROOT = pathlib.Path(fingerprint.__file__).parents[2]


class TinySplit(Dataset):
    """As much of a split as a fingerprint takes."""

    def __init__(self, split):
        self.name, self.split = "shapes", split
        self.num_objects = np.array([2, 0, 1])
        self.fingerprint = "0f" * 32
        self.pixels = "f0" * 32

    def __len__(self):
        return len(self.num_objects)


def git(folder, *arguments):
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.com")
    command = ["git", "-C", folder, *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def package(tmp_path):
    """A package in a checkout: files changed, staged, deleted and new since its commit."""
    root = tmp_path / "checkout"
    package = root / "package"
    (package / "inner").mkdir(parents=True)
    for name in ("same", "changed", "staged", "deleted", "renamed"):
        (package / f"{name}.py").write_text(f"name = {name!r}\n")
    (root / "README.md").write_text("first\n")
    (root / ".gitignore").write_text("ignored*\n")
    git(tmp_path, "init", "--quiet", "checkout")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    (package / "changed.py").write_text("name = 'other'\n")
    (package / "staged.py").write_text("name = 'staged'\nmore = 1\n")
    git(root, "add", "package/staged.py")
    git(root, "mv", "package/renamed.py", "package/moved.py")
    (package / "deleted.py").unlink()
    (package / "inner" / "new.py").write_text("new = True\n")
    (package / "inner" / "weights.npz").write_bytes(bytes(1000))
    (root / "README.md").write_text("second\n")
    return package


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "runs.jsonl").read_text().splitlines()]


def record(workdir, config, step=0):
    fingerprint.record_run(config, workdir, TinySplit("train"), TinySplit("test"), step=step)


def test_every_dependency_is_recorded():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    assert names | {"jaxlib", "libtpu", "rpn-jax"} <= set(fingerprint.PACKAGES)


def test_commit_and_patch_bring_the_source_back(package, tmp_path):
    root = package.parent
    status = git(root, "status", "--porcelain")
    commit, patch = fingerprint.commit_and_patch(package)
    assert git(root, "status", "--porcelain") == status  # nothing was staged
    assert b"README" not in patch
    assert b"weights" not in patch

    git(tmp_path, "clone", "--quiet", "checkout", "copy")
    git(tmp_path / "copy", "checkout", "--quiet", commit)
    (tmp_path / "local.patch").write_bytes(patch)
    copy = tmp_path / "copy" / "package"
    assert fingerprint.hash_source(copy) != fingerprint.hash_source(package)
    git(tmp_path / "copy", "apply", str(tmp_path / "local.patch"))
    assert fingerprint.hash_source(copy) == fingerprint.hash_source(package)


def test_a_package_that_is_no_checkout_has_no_commit(tmp_path, package, monkeypatch):
    assert fingerprint.commit_and_patch(tmp_path) == (None, b"")
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no git
    assert fingerprint.commit_and_patch(package) == (None, b"")


def test_the_source_is_that_of_python_files_alone(package):
    before = fingerprint.hash_source(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "same.pyc").write_bytes(b"compiled")
    assert fingerprint.hash_source(package) == before
    (package / "same.py").rename(package / "other.py")
    assert fingerprint.hash_source(package) != before


def test_each_start_adds_a_row(package, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_PACKAGE", package)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "node1:1234")
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"some weights")
    workdir = tmp_path / "run"
    config = small_config(f"--config.model.pretrained={weights}")
    record(workdir, config)
    with (workdir / "runs.jsonl").open("a") as file:
        file.write('{"started": "2')  # what a full disk can leave
    record(workdir, config, step=40)

    first, second = rows_of(workdir)
    assert (first["step"], second["step"]) == (0, 40)
    patch = (workdir / f"local_changes-{first['code']['local_changes']}.patch").read_bytes()
    assert first["code"] == second["code"]
    assert (first["code"]["commit"], patch) == fingerprint.commit_and_patch(package)
    assert first["data"]["eval"] == {
        "dataset": "shapes", "split": "test", "images": 3, "objects": 3, "annotations": "0f" * 32,
        "pixels": "f0" * 32,
    }  # fmt: skip
    digest = hashlib.sha256(b"some weights").hexdigest()
    assert first["weights"] == {"file": "weights.npz", "sha256": digest}
    assert second["weights"] is None  # a checkpoint has taken their place
    assert first["machine"]["devices"] == {"cpu": 8}
    assert first["machine"]["processes"] == 1
    assert first["environment"]["XLA_FLAGS"] == "--xla_force_host_platform_device_count=8"
    assert "JAX_COORDINATOR_ADDRESS" not in first["environment"]
    assert first["packages"]["numpy"] == np.__version__


def test_masks_belong_to_the_data_where_they_are_trained():
    def described(config, masks):
        split = TinySplit("train")
        split.masks = masks
        return fingerprint.fingerprint(config, split, None, is_new=True)["data"]["train"]

    one, other = (described(small_mask_config(), masks) for masks in ("0a" * 32, "0b" * 32))
    assert fingerprint.differing_fields(one, other) == {"masks": ("0a" * 32, "0b" * 32)}
    for config in (small_config(), small_detector_config()):
        assert described(config, "0a" * 32) == described(config, None)
        assert "masks" not in described(config, "0a" * 32)


def test_a_clean_checkout_leaves_no_patch(package, tmp_path, monkeypatch):
    git(package.parent, "add", "--all")
    git(package.parent, "commit", "--quiet", "--message=second")
    monkeypatch.setattr(fingerprint, "_PACKAGE", package)
    record(tmp_path / "run", small_config())
    (row,) = rows_of(tmp_path / "run")
    assert row["code"]["local_changes"] is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["runs.jsonl"]


def test_processes_that_are_not_made_of_the_same_are_refused(tmp_path, monkeypatch):
    def gather(facts):
        other = json.loads(json.dumps(facts))
        other["packages"]["jax"] = "0.9.0"
        other["config"]["seed"] = 7
        return [facts, facts, other]

    monkeypatch.setattr(processes, "gather", gather)
    expected = r"process 2 .* config.seed is 7, not 0, packages.jax is 0.9.0, not"
    with pytest.raises(UserError, match=expected):
        record(tmp_path / "run", small_config())
    assert not (tmp_path / "run").exists()
