"""Flags that several commands share: a trained network, an image's size, a job's processes."""

import argparse
import pathlib
import re
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from rpn_jax.files import check_out, user_path

CONFIG_HELP = "a file with get_config(), a run's config.json, or a shipped config, such as shapes"


def image_size(text: str) -> tuple[int, int]:
    """Returns the height and width that --image_size gives; another form is a `UserError`."""
    from rpn_jax.errors import UserError

    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if match is None:
        raise UserError(
            f"--image_size={text}: give height x width in pixels, each at most 9999, such as "
            "600x1000"
        )
    return int(match[1]), int(match[2])


def step(text: str) -> int | str:
    """Returns the step that a flag means: a number, or "best"; argparse names this function."""
    return text if text == "best" else int(text)


def add_trained_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --workdir, --weights and --step."""
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--workdir", type=user_path, metavar="DIR", help="of the training run")
    place.add_argument(
        "--weights",
        type=user_path,
        metavar="FILE",
        help="a model file (.safetensors) of export-weights or import-weights, or one on the "
        "Hugging Face Hub, hf://OWNER/REPO[@REVISION][/FILE]",
    )
    parser.add_argument(
        "--step",
        type=step,
        help="of the run's checkpoint; the newest by default; best: of its best validation",
    )


def trained_place(
    arguments: argparse.Namespace, overrides: Sequence[str]
) -> tuple[ConfigDict, pathlib.Path]:
    """Returns the config that came with the network, with overrides, and the folder or file."""
    from rpn_jax.errors import UserError
    from rpn_jax.hub import local_file
    from rpn_jax.runs.config_files import apply_overrides
    from rpn_jax.runs.workdir import load_workdir_config
    from rpn_jax.weights.class_names import check_renamed
    from rpn_jax.weights.model_file import read_model

    if arguments.workdir is not None:
        config, place = load_workdir_config(arguments.workdir), arguments.workdir
    elif arguments.step is not None:
        raise UserError(f"--step={arguments.step}: a model file holds one step; leave it out")
    elif arguments.weights.is_dir():
        raise UserError(
            f"--weights={arguments.weights}: is a folder; give a model file (.safetensors), or the "
            "folder of a run as --workdir"
        )
    else:
        place = local_file(arguments.weights)
        config = read_model(place).config
    trained_on = config.box.class_names if "box" in config else ()
    config = apply_overrides(config, overrides)
    if trained_on:
        check_renamed(str(place), config.box.class_names, trained_on)
    return config, place


def check_out_file(out: pathlib.Path, source: pathlib.Path | None) -> None:
    """Raises a `UserError` unless the file of --out can be written and is not that of `source`."""
    from rpn_jax.errors import UserError

    check_out(out)
    if source is not None and source.exists() and out.exists() and out.samefile(source):
        raise UserError(f"--out={out}: is the file that is read; give another")


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the images to look at, --folder, --out and --format."""
    parser.add_argument(
        "images", nargs="*", type=user_path, metavar="IMAGE", help="a file, a video, or a folder"
    )
    parser.add_argument(
        "--folder", type=user_path, metavar="DIR", help="all images and videos in it and below"
    )
    parser.add_argument(
        "--split",
        help="all images of a split of the prepared dataset instead, with its ids, in one file "
        "and without pictures",
    )
    parser.add_argument(
        "--out", required=True, type=user_path, metavar="DIR", help="where the results go"
    )
    parser.add_argument(
        "--format",
        choices=("json", "npz", "yolo"),
        default="json",
        help="one file in COCO's results layout, arrays, or YOLO's text files (%(default)s)",
    )


def given_images(
    arguments: argparse.Namespace,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the images and videos to look at, and the files that are left out.

    The first are the files that are named, and the images and videos in the folders that are named.
    Left out are the other files of these folders, see `tell_left_out`. Files in --out are in
    neither list, and with --split both are empty.

    Raises:
        UserError: a file is not there, or --out cannot be written, or would replace a file.
    """
    from rpn_jax.errors import UserError

    for place in (
        arguments.out,
        *(arguments.out / part for part in ("pictures", "videos", "labels")),
    ):
        check_out(place, folder=True)
    given = list(arguments.images)
    if arguments.folder:
        if not arguments.folder.is_dir():
            found = "not a folder" if arguments.folder.exists() else "no such folder"
            raise UserError(
                f"--folder={arguments.folder}: {found}; name image files without a flag"
            )
        given.append(arguments.folder)
    if given and arguments.split:
        raise UserError(f"--split={arguments.split}: is given, and so are images; leave out one")
    if arguments.split:
        return [], []
    if not given:
        raise UserError("no images given; name image files or folders of them, or a --split")
    if missing := [path for path in given if not path.exists()]:
        raise UserError(f"{missing[0]}: no such image file; leave it out or correct the path")
    paths: dict[pathlib.Path, None] = {}  # in their order, each once
    others: dict[pathlib.Path, None] = {}
    for path in given:
        files, left_out = _of_folder(path, arguments.out) if path.is_dir() else ([path], [])
        paths |= dict.fromkeys(files)
        others |= dict.fromkeys(left_out)
    _check_apart(arguments.out, list(paths))
    return list(paths), [path for path in others if path not in paths]


def _of_folder(
    folder: pathlib.Path, out: pathlib.Path
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns a folder's images and videos, and its other files, without those of `out`."""
    from rpn_jax.data import videos
    from rpn_jax.data.images import image_files_and_others
    from rpn_jax.errors import UserError

    if out.exists() and out.samefile(folder):
        raise UserError(
            f"--out={out}: is the folder of the images, to which it would add pictures; give "
            f"another, such as {out / 'found'}"
        )
    return image_files_and_others(folder, videos.SUFFIXES, without=out)


def tell_left_out(paths: Sequence[pathlib.Path]) -> None:
    """Says on stderr which files of the folders are not looked at, if there are any."""
    from rpn_jax.errors import list_some

    if paths:
        what = "1 file that is" if len(paths) == 1 else f"{len(paths)} files that are"
        names = list_some(map(str, paths), 3)
        print(f"left out: {what} no image or video by name: {names}", file=sys.stderr)


def _check_apart(out: pathlib.Path, paths: Sequence[pathlib.Path]) -> None:
    """Raises a `UserError` if `out` would have its pictures or videos where some of `paths` are."""
    from rpn_jax.errors import UserError

    parents = {path.parent: path for path in paths}
    for place in (out / "pictures", out / "videos"):
        for parent, path in parents.items():
            if place.exists() and place.samefile(parent):
                raise UserError(
                    f"--out={out}: its {place.name} would replace {path}; give another folder"
                )


def tell_written(failures: Sequence[str], paths: Sequence[pathlib.Path], out: pathlib.Path) -> None:
    """Says of how many files `out` has what was found; without `paths` it was a split.

    Raises:
        UserError: some files could not be read, which it names.
    """
    from rpn_jax.data.videos import is_video
    from rpn_jax.errors import UserError
    from rpn_jax.text import printable

    what = "files" if any(map(is_video, paths)) else "images"
    if failures:
        others = len(paths) - len(failures)
        written = f"; {out} has what was found in the other {others}" if others else ""
        raise UserError(f"{len(failures)} of {len(paths)} {what}: {'; '.join(failures)}{written}")
    of = f"{len(paths)} {what if len(paths) > 1 else what[:-1]}" if paths else "the split"
    print(printable(f"{out}: what was found in {of}"))


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --coordinator, --num_processes, --process_id, --join_seconds and --heartbeat_seconds."""
    group = parser.add_argument_group(
        "several processes",
        "found by themselves on Slurm, Open MPI, GKE and TPU pods; elsewhere, start the command "
        "once for each process with all three",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process")
    group.add_argument("--num_processes", type=int, metavar="N", help="1: this process alone")
    group.add_argument("--process_id", type=int, metavar="I", help="0 to N-1")
    group.add_argument(
        "--join_seconds",
        type=int,
        default=300,
        metavar="S",
        help="how long to wait for the other processes (%(default)s)",
    )
    group.add_argument(
        "--heartbeat_seconds",
        type=int,
        default=60,
        metavar="S",
        help="all end when one of them has not answered for so long (%(default)s)",
    )


def join(arguments: argparse.Namespace) -> None:
    """Makes this process one of the job that the flags, or the launcher, describe."""
    from rpn_jax.runs.processes import join_processes

    join_processes(
        arguments.coordinator,
        arguments.num_processes,
        arguments.process_id,
        arguments.join_seconds,
        arguments.heartbeat_seconds,
    )
