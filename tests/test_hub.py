"""Model files on the Hugging Face Hub, of which a folder in the layout of its cache stands in.

    models--OWNER--REPO/refs/BRANCH   models--OWNER--REPO/snapshots/COMMIT/FILE

Nothing here reaches a network. Where the Hub's own library is installed, it reads the same folder.
"""

import doctest
import hashlib
import inspect
import pathlib
import re
import shutil
import sys
import types

import jax
import numpy as np
import pytest
from training.small import small_config

import rpn_jax
from rpn_jax import hub
from rpn_jax.__main__ import main
from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import variable_shapes
from rpn_jax.runs.config import default_config
from rpn_jax.trained.load import trained_config
from rpn_jax.training.build import build_network, load_pretrained
from rpn_jax.weights.model_file import read_model, write_model
from rpn_jax.weights.sources import read_source


class RepositoryNotFoundError(Exception):
    pass


class RevisionNotFoundError(Exception):
    pass


class GatedRepoError(RepositoryNotFoundError):
    pass


class EntryNotFoundError(Exception):
    pass


class Hub:
    """The Hub as its cache lays it out, with the functions of `huggingface_hub` that are used."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def as_module(self) -> types.ModuleType:
        """Returns what `import huggingface_hub` is to find."""
        module = types.ModuleType("huggingface_hub")
        module.hf_hub_download = self.hf_hub_download
        module.HfApi = lambda: self
        return module

    def commit(self, repo: str, file: str, source: pathlib.Path, branch: str = "main") -> str:
        """Adds a file to the repository; returns the commit."""
        folder = self._folder(repo)
        oid = hashlib.sha1(source.read_bytes() + file.encode()).hexdigest()
        target = folder / "snapshots" / oid / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / branch).write_text(oid)
        return oid

    def _folder(self, repo: str) -> pathlib.Path:
        return self.root / f"models--{repo.replace('/', '--')}"

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        folder = self._folder(repo_id)
        if repo_id == "meta/gated":
            raise GatedRepoError("403 Client Error")
        if not folder.is_dir():
            raise RepositoryNotFoundError("401 Client Error\nRepository Not Found")
        ref = folder / "refs" / (revision or "main")
        snapshot = folder / "snapshots" / (ref.read_text() if ref.is_file() else str(revision))
        if not snapshot.is_dir():
            raise RevisionNotFoundError("404")
        if not (snapshot / filename).is_file():
            raise EntryNotFoundError("404")
        return str(snapshot / filename)

    def upload_file(
        self, *, path_or_fileobj, path_in_repo, repo_id, revision=None, commit_message=None
    ):
        assert commit_message == f"Upload {path_in_repo}"
        if repo_id == "me/full":
            raise OSError("507 Storage is full\nupgrade")
        if not self._folder(repo_id).is_dir():
            raise RepositoryNotFoundError("404")
        oid = self.commit(repo_id, path_in_repo, path_or_fileobj, revision or "main")
        return types.SimpleNamespace(oid=oid)


def model_file(path: pathlib.Path, step: int) -> pathlib.Path:
    """A model file of a backbone alone, whose arrays are zeros."""
    kernel = np.zeros((3, 3, 3, 64), np.float32)
    collections = {"params": {"backbone": {"c1": {"conv1": {"kernel": kernel}}}}}
    write_model(path, default_config(), collections, source="a test", step=step)
    return path


def whole_model(path: pathlib.Path) -> pathlib.Path:
    """A model file of a small RPN, whose arrays are zeros."""
    config = small_config()
    shapes = variable_shapes(build_network(config))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    write_model(path, config, zeros, source="a test", step=5)
    return path


@pytest.fixture
def models(tmp_path):
    """Steps 1 and 2 of a network: the second on main, the first on the branch v1."""
    models = Hub(tmp_path / "hub")
    for step, branch in ((1, "v1"), (2, "main")):
        file = model_file(tmp_path / f"{step}.safetensors", step)
        models.commit("me/shapes", "model.safetensors", file, branch)
    models.commit("me/shapes", "heads/rpn.safetensors", model_file(tmp_path / "3.safetensors", 3))
    models.commit("me/shapes", "model.safetensors", tmp_path / "2.safetensors")
    return models


@pytest.fixture(params=["stand-in", "huggingface_hub"])
def client(request, models, monkeypatch):
    """What is imported as `huggingface_hub`: the stand-in, or the library on the same folder."""
    if request.param == "huggingface_hub":
        constants = pytest.importorskip("huggingface_hub.constants")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(models.root))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setitem(sys.modules, "huggingface_hub", models.as_module())
    return models


def test_names_are_those_of_the_hub():
    tried = doctest.testmod(hub)
    assert (tried.failed, tried.attempted) == (0, 1)
    assert hub.parse("hf://me/my.repo-1") == ("me/my.repo-1", "model.safetensors", None)
    assert hub.parse("hf://me/r/a/b.pth") == ("me/r", "a/b.pth", None)
    assert hub.parse("hf://me/r@refs%2Fpr%2F1") == ("me/r", "model.safetensors", "refs/pr/1")
    for name in ("hf://me/r@v1/a.pth", "hf://me/r@refs%2Fpr%2F1/a.pth", "hf://me/r/a.pth"):
        assert str(hub.parse(name)) == name
        assert hub.parse(pathlib.Path(name)) == hub.parse(name)  # pathlib drops a slash
    assert not hub.is_on_hub("models/hf.safetensors")


@pytest.mark.parametrize(
    "name", ["hf://shapes", "hf://me/r/a.pth@v1", "hf://me/r@/a", "hf://me/r/", "hf:///me/r"]
)
def test_other_names_are_one_line(name):
    with pytest.raises(UserError, match=r"is named hf://OWNER/REPO\[@REVISION\]\[/FILE\]; correct"):
        hub.local_file(name)


@pytest.mark.parametrize(
    ("name", "step"),
    [("", 2), ("@v1", 1), ("@v1/model.safetensors", 1), ("/heads/rpn.safetensors", 3)],
)
def test_files_are_found_by_name(client, name, step):
    if step == 3:  # of another commit than the newest
        oid = pathlib.Path(*client.root.rglob("rpn.safetensors")).parents[1].name
        name = f"@{oid}{name}"
    file = hub.local_file(f"hf://me/shapes{name}")
    assert file.is_file()
    assert file.is_relative_to(client.root)
    assert read_source(f"hf://me/shapes{name}").path == file
    assert trained_config(file).model.backbone == default_config().model.backbone


def test_paths_that_are_not_of_the_hub_stay(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert hub.local_file("a/b.pth") == pathlib.Path("a/b.pth")
    assert hub.local_file("~/b.pth") == pathlib.Path("~/b.pth").expanduser()


def test_what_is_not_in_the_cache_is_one_line(client):
    for name in ("me/none", "me/shapes@v9", "me/shapes/none.pth"):
        with pytest.raises(UserError, match=f"^hf://{name}.*: .*; ") as raised:
            hub.local_file(f"hf://{name}")
        assert "\n" not in str(raised.value)


def test_what_the_hub_refuses_has_a_remedy(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", models.as_module())
    for name, what in {
        "meta/gated": "is gated; ask for access on its page, then log in with `hf auth login`",
        "me/none": "no such repository, or a private one; correct the name, create it on the Hub",
        "me/shapes@v9": "has no such revision; correct it",
        "me/shapes/none.pth": "has no such file; name one of its files, hf://OWNER/REPO",
    }.items():
        with pytest.raises(UserError, match=what):
            hub.local_file(f"hf://{name}")


def test_a_model_goes_up_and_comes_back(models, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", models.as_module())
    local, out = whole_model(tmp_path / "local.safetensors"), tmp_path / "out.safetensors"
    command = ["export-weights", f"--weights={local}", f"--out={out}"]
    assert main([*command, "--upload=hf://me/shapes@next/deep/rpn.safetensors"]) == 0
    (name,) = re.findall("^uploaded: (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert re.fullmatch(r"hf://me/shapes@[0-9a-f]{40}/deep/rpn.safetensors", name)
    # By its commit, and by the branch.
    back = tmp_path / "back.safetensors"
    for place in (name, "hf://me/shapes@next/deep/rpn.safetensors"):
        assert main(["export-weights", f"--weights={place}", f"--out={back}"]) == 0
        assert read_model(back).step == 5
    capsys.readouterr()
    for place, what in {
        "me/none": "hf://me/none/model.safetensors: no such repository, or a private one",
        "me/full": "hf://me/full/model.safetensors: 507 Storage is full",
    }.items():
        assert main([*command, f"--upload=hf://{place}"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert what in line


def test_pretrained_weights_may_be_on_the_hub(models, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", models.as_module())
    models.commit("me/rpn", hub.FILE, whole_model(tmp_path / "local.safetensors"))
    config = small_config()
    config.model.pretrained = "hf://me/rpn"
    pretrained = load_pretrained(config, build_network(config))
    assert "rpn" in pretrained.collections["params"]
    assert "model.safetensors: " in capsys.readouterr().out
    assert rpn_jax.load("hf://me/rpn").step == 5


def test_without_the_extra_one_line_says_so(models, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    out = tmp_path / "out.safetensors"
    line = "error: huggingface_hub is not installed; pip install 'rpn-jax[hub]', or give a file"
    for flags in (
        ("--weights=hf://me/shapes",),
        (f"--weights={tmp_path / '1.safetensors'}", "--upload=hf://me/shapes"),
    ):
        assert main(["export-weights", *flags, f"--out={out}"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(line)
        assert error.count("\n") == 1
        assert not out.exists()


def test_the_library_takes_what_it_is_given():
    client = pytest.importorskip("huggingface_hub")
    inspect.signature(client.hf_hub_download).bind("me/r", "a.pth", revision=None)
    names = "path_or_fileobj", "path_in_repo", "repo_id", "revision", "commit_message"
    inspect.signature(client.HfApi().upload_file).bind(**dict.fromkeys(names))
