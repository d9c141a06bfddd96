"""Where commands read images, and where they write: told before anything is compiled."""

import argparse
import os
import pathlib

import pytest

from rpn_jax.__main__ import main
from rpn_jax.errors import UserError
from rpn_jax.files import check_out
from rpn_jax.flags import add_image_flags, given_images, tell_left_out, tell_written


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Returns the images that flags name, relative to a folder with photos."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.JP2", "c.ppm", "clip.mp4", "notes.txt", "IMG_1", "deep/d.avif"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def given(*flags):
        parser = argparse.ArgumentParser()
        add_image_flags(parser)
        paths, others = given_images(parser.parse_args(flags))
        tell_left_out(others)
        return [str(path) for path in paths]

    return given


PHOTOS = [f"photos/{name}" for name in ("a.jpg", "b.JP2", "c.ppm", "clip.mp4", "deep/d.avif")]


def test_a_folder_gives_its_images_and_videos_and_says_what_is_left_out(given, capsys):
    assert given("--folder=photos", "--out=out") == PHOTOS
    (line,) = capsys.readouterr().err.splitlines()
    names = "photos/IMG_1, photos/notes.txt"
    assert line == f"left out: 2 files that are no image or video by name: {names}"
    assert given("--folder=photos", "photos/notes.txt", "photos/IMG_1", "--out=out")[:2] == [
        "photos/notes.txt",
        "photos/IMG_1",
    ]
    assert capsys.readouterr().err == ""
    pathlib.Path("texts").mkdir()
    pathlib.Path("texts", "a.txt").touch()
    with pytest.raises(UserError, match="texts: no images are in it or below, only.* a.txt") as e:
        given("texts", "--out=out")
    assert ".mp4" in str(e.value)
    assert ".heic" not in str(e.value)  # a format that is not read


@pytest.mark.parametrize("kind", ["pictures", "videos"])
def test_a_command_never_reads_what_it_wrote_and_replaces_no_image(kind, given):
    written = pathlib.Path("photos", "found", kind, "a.jpg")
    written.parent.mkdir(parents=True)
    written.touch()
    assert given("--folder=photos", "--out=photos/found") == PHOTOS
    assert given("photos", f"--out={os.path.abspath('photos')}/found") == PHOTOS
    with pytest.raises(UserError, match="^--out=photos: is the folder of the images, to which it"):
        given("--folder=./photos", "--out=photos")
    for images in (written.parent, written):
        with pytest.raises(UserError, match=f"--out=photos/found: its {kind} would replace .*a"):
            given(str(images), "--out=photos/found")


def test_a_place_that_cannot_be_written_is_told_beforehand(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    check_out(tmp_path / "new" / "folder" / "file")
    check_out(file)
    check_out(tmp_path / "new" / "folder", folder=True)
    assert not (tmp_path / "new").exists()
    for place, is_folder, said in (
        (file, True, f"{file} is no folder"),
        (file / "below" / "x", False, f"{file} is no folder"),
        (tmp_path, False, "is a folder, and a file is to be there"),
        (tmp_path / ("n" * 300), False, "File name too long"),
    ):
        with pytest.raises(UserError) as error:
            check_out(place, folder=is_folder)
        assert str(error.value) == f"--out={place}: cannot be written ({said}); give another place"
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match="--json=.* may not be written to"):
        check_out(file, flag="--json")


@pytest.mark.parametrize(
    "command",
    [
        ["detect", "--weights=w", "IMAGE"],
        ["propose", "--weights=w", "--split=test"],
        ["export", "--weights=w", "--image_size=64x64"],
        ["export-weights", "--weights=w"],
        ["import-weights", "w", "--model=vgg16"],
        ["sweep", "--sweep=shapes"],
        ["compile", "--config=shapes", "--topology=v5e:2x2"],
    ],
)
def test_commands_check_their_place_first(command, tmp_path, capsys):
    image = tmp_path / "image.jpg"
    image.touch()
    flag = "--json" if command[0] == "compile" else "--out"
    place = image / "model.safetensors"
    argv = [part.replace("IMAGE", str(image)) for part in command]
    assert main([*argv, f"{flag}={place}"]) == 1
    said = f"error: {flag}={place}: cannot be written ({image} is no folder); give another place"
    assert capsys.readouterr().err.splitlines() == [said]


@pytest.mark.parametrize(
    "command",
    [["export-weights", "--weights=W"], ["import-weights", "W", "--model=vgg16"]],
)
def test_the_file_that_is_read_is_not_replaced(command, tmp_path, capsys):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"weights")
    argv = [part.replace("W", str(file)) for part in command]
    assert main([*argv, f"--out={tmp_path}/./w.safetensors"]) == 1
    assert "w.safetensors: is the file that is read; give another" in capsys.readouterr().err
    assert file.read_bytes() == b"weights"


def test_a_folder_is_no_model_file(tmp_path, capsys):
    argv = ["export-weights", f"--weights={tmp_path}", f"--out={tmp_path}/out.safetensors"]
    assert main(argv) == 1
    said = f"error: --weights={tmp_path}: is a folder; give a model file (.safetensors), or the "
    assert capsys.readouterr().err == f"{said}folder of a run as --workdir\n"


def test_what_could_not_be_read_is_counted_by_its_kind(capsys):
    image, video = pathlib.Path("a.jpg"), pathlib.Path("b.mp4")
    out = pathlib.Path("out")
    others = "; out has what was found in the other 1$"
    with pytest.raises(UserError, match=f"^1 of 2 images: a.jpg: broken{others}"):
        tell_written(["a.jpg: broken"], [image, image], out)
    with pytest.raises(UserError, match=f"^1 of 2 files: b.mp4: broken{others}"):
        tell_written(["b.mp4: broken"], [image, video], out)
    with pytest.raises(UserError, match="^1 of 1 images: a.jpg: broken$"):
        tell_written(["a.jpg: broken"], [image], out)
    assert capsys.readouterr().out == ""
    tell_written([], [image, video], out)
    tell_written([], [], out)
    assert capsys.readouterr().out == (
        "out: what was found in 2 files\nout: what was found in the split\n"
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["propose", "--draw=-1"], "--draw=-1: give a number of boxes, 0 for no pictures"),
        (["detect", "--draw_above=nan"], "--draw_above=nan: give a score from 0 to 1"),
        (["detect", "--draw_above=50"], "--draw_above=50.0: give a score from 0 to 1"),
    ],
)
def test_how_much_is_drawn(argv, said, capsys):
    assert main([*argv, "--weights=w", "x.jpg", "--out=o"]) == 1
    assert capsys.readouterr().err.splitlines() == [f"error: {said}"]
