"""Provenance of a run beside its config: code, packages, data, weights, machine.

`runs.jsonl` in the work folder has a row for each start of the run. `compare` reads it to tell how
two runs differ, and what changed between the starts of one run.
"""

import collections
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

import rpn_jax
from rpn_jax.data.datasets import Dataset
from rpn_jax.data.loader import usable_cores
from rpn_jax.errors import UserError, list_some
from rpn_jax.files import write_bytes
from rpn_jax.hub import is_on_hub, local_file
from rpn_jax.parts import hash_part, hash_source
from rpn_jax.runs import processes
from rpn_jax.runs.config import flatten
from rpn_jax.runs.fields import own_parts
from rpn_jax.runs.metrics import read_metrics
from rpn_jax.runs.workdir import load_workdir_config

# Packages that this project imports, and JAX's compilers for accelerators.
PACKAGES = (
    "absl-py", "array-record", "defusedxml", "flatbuffers", "flax", "grain", "h5py", "jax",
    "jax-cuda12-pjrt", "jax-cuda12-plugin", "jax-cuda13-pjrt", "jax-cuda13-plugin", "jaxlib",
    "jaxtyping", "jinja2", "libtpu", "matplotlib", "ml-collections", "ml-dtypes", "numpy",
    "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cuda-nvcc", "nvidia-cuda-nvcc-cu12",
    "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu13",
    "opencv-python-headless", "optax", "orbax-checkpoint", "pillow", "pycocotools", "pyyaml",
    "rich", "rpn-jax", "safetensors", "scipy", "submitit", "tensorboardX",
    "tensorflow-datasets", "tensorstore", "tqdm",
)  # fmt: skip
# Environment variables that affect compilation or the order of sums, ...
_VARIABLES = re.compile(
    r"(JAX|XLA|LIBTPU|NCCL)_\w+|NVIDIA_TF32_OVERRIDE|CUBLAS_WORKSPACE_CONFIG|OMP_NUM_THREADS"
)
# ... without those that only locate files and other processes.
_PLACES = re.compile(r"JAX_(COMPILATION_CACHE|COORDINATOR|PROCESS|NUM_PROCESSES|LOCAL)\w*")
_PACKAGE = pathlib.Path(rpn_jax.__file__).parent


def record_run(
    config: ConfigDict,
    workdir: pathlib.Path,
    train_set: Dataset,
    eval_set: Dataset | None,
    *,
    step: int,
) -> None:
    """Adds this start's row, from `step`, to `runs.jsonl`; all processes must call it.

    Changes of the package since its commit, new files included, are kept as a patch beside it:
    `git checkout COMMIT && git apply WORKDIR/local_changes-HASH.patch` restores the source.

    Raises:
        UserError: the processes differ (see `fingerprint`), or the folder cannot be written.
    """
    facts = fingerprint(config, train_set, eval_set, is_new=step == 0)
    check_agreement({"config": flatten(config), **facts})
    processes.on_first(lambda: _add_row(workdir, facts, step))


def fingerprint(
    config: ConfigDict, train_set: Dataset, eval_set: Dataset | None, *, is_new: bool
) -> dict[str, Any]:
    """Returns the facts that every process of a run must share, as JSON types.

    `code.source` is a hash of the package's installed Python files, with git or without, and
    `code.parts` one of those of each part that the config names by import path. `data` has for each
    split its counts, a hash of file names, image ids, boxes, labels and ignore flags, and
    one of the images, which `prepare` made; where masks are trained one of the masks too. `weights`
    are the name and SHA-256 of `config.model.pretrained`: None without it, and None unless the run
    `is_new`, because a resumed run takes its parameters from a checkpoint.
    """
    splits = {"train": train_set, "eval": eval_set}
    parts = {field: hash_part(path) for field, path in own_parts(config).items()}
    return {
        "code": {"source": hash_source(_PACKAGE), **({"parts": parts} if parts else {})},
        "packages": _installed(PACKAGES),
        "data": {
            name: _describe(config, split) for name, split in splits.items() if split is not None
        },
        "weights": _hash_weights(config.model.pretrained) if is_new else None,
    }


def check_agreement(facts: dict[str, Any]) -> None:
    """Checks that all processes have the same `facts`; all processes must call it.

    Raises:
        UserError: a process has other facts; names the process, the fields, and both values.
    """
    rows = processes.gather(facts)
    with processes.together():
        for number, row in enumerate(rows):
            differing = [
                f"{field} is {theirs}, not {ours}"
                for field, (ours, theirs) in differing_fields(rows[0], row).items()
            ]
            if differing:
                raise UserError(
                    f"process {number} differs from process 0: {list_some(differing)}; "
                    "start all by the same command, with the same files and packages"
                )


def differing_fields(ours: Any, theirs: Any) -> dict[str, tuple[Any, Any]]:
    """Returns both values of each field, such as `packages.jax`, that differs in two nested dicts.

    A missing field counts as None.
    """
    ours, theirs = (traverse_util.flatten_dict(tree or {}, sep=".") for tree in (ours, theirs))
    return {
        field: (ours.get(field), theirs.get(field))
        for field in sorted(ours.keys() | theirs.keys())
        if ours.get(field) != theirs.get(field)
    }


def _add_row(workdir: pathlib.Path, facts: dict[str, Any], step: int) -> None:
    commit, patch = commit_and_patch(_PACKAGE)
    changes = hashlib.sha256(patch).hexdigest()[:12] if patch else None
    if changes:
        write_bytes(workdir / f"local_changes-{changes}.patch", patch)
    row = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "step": step,
        **facts,
        "code": {"commit": commit, "local_changes": changes, **facts["code"]},
        "machine": _machine(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if _VARIABLES.fullmatch(name) and not _PLACES.fullmatch(name)
        },
    }
    # The file is rewritten whole: a row cut short by a full disk would merge with the next one.
    file = workdir / "runs.jsonl"
    earlier = read_metrics(file)
    if step:
        _tell_other(workdir, earlier, facts)
    rows = [json.dumps(row) + "\n" for row in [*earlier, row]]
    write_bytes(file, "".join(rows).encode())


def _tell_other(workdir: pathlib.Path, rows: list[dict], facts: dict[str, Any]) -> None:
    """Warns on stderr if a resumed run's data or own parts differ from those it had before."""
    before = rows[-1] if rows else {}
    for name, result, of in (
        ("data", "that of no single dataset", lambda row: row.get("data")),
        ("parts", "that of no single code", lambda row: row.get("code", {}).get("parts")),
    ):
        was, now = of(before) or {}, of(facts) or {}
        shared = was.keys() & now.keys()
        differing = differing_fields(*({key: tree[key] for key in shared} for tree in (was, now)))
        # Earlier versions recorded less.
        changes = [
            f"{field} is {b}, was {a}" for field, (a, b) in differing.items() if a is not None
        ]
        if changes:
            print(
                f"{workdir}: goes on with other {name} than it began with: "
                f"{list_some(changes, 4)}; its result is {result}",
                file=sys.stderr,
            )


def tell_changed(workdir: pathlib.Path, dataset: Dataset, config: ConfigDict) -> None:
    """Warns on stderr if a split is not what the run in this folder trained or validated with.

    Nothing is said of a split that the run did not open, or that `config` has from elsewhere.
    """
    place = ("dataset", "source", "data_dir", "options")
    stored = load_workdir_config(workdir).data
    if any(stored[field] != config.data[field] for field in place):
        return
    rows = read_metrics(workdir / "runs.jsonl")
    now = _describe(config, dataset)
    for was in (rows[-1].get("data") or {}).values() if rows else ():
        if (was.get("dataset"), was.get("split")) == (now["dataset"], now["split"]):
            changed = [
                f"{field} is {now[field]}, was {was[field]}"
                if isinstance(was[field], int)
                else f"other {field}"
                for field in was
                if was[field] is not None and was[field] != now.get(field, was[field])
            ]
            if changed:
                print(
                    f"{workdir}: {dataset.name} {dataset.split} has changed since the training: "
                    f"{list_some(changed)}; figures of before are not to be compared with these",
                    file=sys.stderr,
                )
            return


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _describe(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(dataset),
        "objects": int(dataset.num_objects.sum()),
        "annotations": dataset.fingerprint,
        **({"proposals": dataset.proposals.digest} if dataset.proposals else {}),
        "pixels": dataset.pixels,
        **({"masks": dataset.masks} if "mask" in config else {}),
    }


def _hash_weights(path: str | None) -> dict[str, str] | None:
    if not path:
        return None
    local = local_file(path)
    with local.open("rb") as file:
        return {
            "file": path if is_on_hub(path) else local.name,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def commit_and_patch(package: pathlib.Path) -> tuple[str | None, bytes]:
    """Returns a checkout's commit, and the patch from it to the package's current Python files.

    They are None and empty where the package is not in a checkout, or git is missing.
    """
    if not (package.parent / ".git").exists():
        return None, b""
    with tempfile.TemporaryDirectory() as folder:
        # A separate index puts new files into the patch and leaves the user's index unchanged.
        environment = {**os.environ, "GIT_INDEX_FILE": os.path.join(folder, "index")}

        def git(*arguments: str) -> bytes:
            command = ["git", "-C", package, *arguments]
            return subprocess.run(command, env=environment, capture_output=True, check=True).stdout

        try:
            commit = git("rev-parse", "HEAD").decode().strip()
            git("read-tree", "HEAD")
            git("add", "--intent-to-add", "--", "*.py")
            # `git apply` must be able to read the patch, whatever the user's settings.
            form = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames",
                    "--src-prefix=a/", "--dst-prefix=b/")  # fmt: skip
            return commit, git("diff", *form, "HEAD", "--", "*.py")
        except (OSError, subprocess.CalledProcessError):
            return None, b""


def _machine() -> dict[str, Any]:
    """Returns the machine and devices of the run; host and CPU are those of this process."""
    return {
        "devices": dict(collections.Counter(device.device_kind for device in jax.devices())),
        "processes": jax.process_count(),
        "runtime": " ".join(jax.devices()[0].client.platform_version.split()),
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cpu_cores": usable_cores(),  # the order of sums depends on it
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Returns the CPU's model if the system tells it; XLA compiles for the CPU's features."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()
