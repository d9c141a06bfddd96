"""Preparing again, at once with others, on bad disks: what is kept, mended, waited for, left."""

import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile

import pytest
from damage import DAMAGES, flip_a_byte

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.errors import UserError


@pytest.fixture
def place(voc, tmp_path):
    return dict(data_dir=tmp_path / "prepared", source=voc.root)


def prepare(place, **options):
    return prepare_dataset("voc_folder", **place, **options)


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


# --- data that no longer fits its source


def mend_an_image(voc, whole):
    voc.image("b").write_bytes(whole)


def replace_an_image(voc, whole):
    voc.image("c").write_bytes(voc.image("e").read_bytes())


def remove_an_image(voc, whole):
    voc.image("c").unlink()


def move_an_object(voc, whole):
    text = voc.annotation("e").read_text()
    voc.annotation("e").write_text(text.replace("<xmin>3<", "<xmin>4<"))


def make_an_object_difficult(voc, whole):
    text = voc.annotation("e").read_text()
    voc.annotation("e").write_text(text.replace("difficult>0<", "difficult>1<"))


def drop_an_image(voc, whole):
    voc.names("train").write_text("a\nb\nc\nd\n")


def rename_a_class(voc, whole):
    for file in (voc.root / "Annotations").iterdir():
        file.write_text(file.read_text().replace("dog", "horse"))


def add_a_split(voc, whole):
    voc.names("val").write_text("a\n")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (mend_an_image, r"b\.jpg: has changed .*it is new, or could not be used before"),
        (replace_an_image, r"c\.jpg: has changed .*the file is another"),
        (remove_an_image, r"c\.jpg: has changed .*it cannot be used any more"),
        (move_an_object, r"e\.jpg: has changed .*its annotation is another"),
        (make_an_object_difficult, r"e\.jpg: has changed .*its annotation is another"),
        (drop_an_image, r"e\.jpg: has changed .*it cannot be used any more"),
        (rename_a_class, r"My VOC: has changed .*its classes are cat, horse"),
        (add_a_split, r"My VOC: has changed .*has the splits"),
    ],
)
def test_a_change_of_the_source_is_named_and_replaced_when_asked(voc, place, change, match):
    whole = voc.image("b").read_bytes()
    cut(voc.image("b"))
    prepare(place, skip_bad=True)
    assert prepare(place, skip_bad=True).already_prepared  # what is bad still is
    change(voc, whole)
    with pytest.raises(UserError, match=match + r".*prepare it again with --anew"):
        prepare(place, skip_bad=True)
    assert len(open_dataset("voc_folder", "train", **place)) == 4
    report = prepare(place, skip_bad=True, anew=True)
    assert not report.already_prepared
    assert prepare(place, skip_bad=True).already_prepared
    sizes = {mend_an_image: 5, remove_an_image: 3, drop_an_image: 3}
    assert len(open_dataset("voc_folder", "train", **place)) == sizes.get(change, 4)


def test_what_is_replaced_stays_until_the_new_is_complete(voc, place):
    prepare(place)
    cut(voc.image("b"))
    with pytest.raises(UserError, match=r"b\.jpg: .*truncated"):
        prepare(place, anew=True)
    assert len(open_dataset("voc_folder", "train", **place)) == 5


# --- damaged data


@pytest.mark.parametrize("damage", ["half", "gone"])
@pytest.mark.parametrize(
    "name",
    [
        "dataset_info.json",
        "features.json",
        "metadata.json",
        "voc_folder-train.array_record-00000-of-00001",
    ],
)
def test_damaged_data_is_mended(place, capfd, name, damage):
    directory = pathlib.Path(prepare(place).directory)
    DAMAGES[damage](directory / name)
    with pytest.raises(UserError, match=rf"{name}: the prepared dataset is damaged"):
        open_dataset("voc_folder", "train", **place)
    capfd.readouterr()
    assert not prepare(place).already_prepared
    assert f"{name}: is damaged; preparing it all again" in capfd.readouterr().err
    assert len(open_dataset("voc_folder", "train", **place)) == 5


def test_a_damaged_record_is_found_and_mended(place):
    directory = pathlib.Path(prepare(place).directory)
    flip_a_byte(directory / "voc_folder-train.array_record-00000-of-00001")
    assert not prepare(place).already_prepared
    assert open_dataset("voc_folder", "train", **place)[0].filename.endswith("a.jpg")


def test_a_damaged_record_of_generated_images_is_found(tmp_path):
    options = dict(data_dir=tmp_path, image_size=48, num_train=3, num_test=1)
    directory = pathlib.Path(prepare_dataset("shapes", **options).directory)
    flip_a_byte(directory / "shapes-train.array_record-00000-of-00001")
    assert not prepare_dataset("shapes", **options).already_prepared
    assert prepare_dataset("shapes", **options).already_prepared


# --- several at once, and what killed ones leave


def test_two_at_once_prepare_once(voc, place):
    code = (
        "import sys; from rpn_jax.data.datasets import prepare_dataset as prepare; "
        "print(prepare('voc_folder', data_dir=sys.argv[1], source=sys.argv[2]).already_prepared)"
    )
    command = [sys.executable, "-c", code, str(place["data_dir"]), str(voc.root)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert said == {"True", "False"}
    assert len(open_dataset("voc_folder", "train", **place)) == 5


@pytest.mark.parametrize("is_prepared", [False, True])
def test_what_killed_ones_left_is_cleared_by_the_next(place, is_prepared):
    directory = pathlib.Path(prepare(place).directory)
    if not is_prepared:
        shutil.rmtree(directory)
    (directory.parent / "incomplete.ABC_1.0.0").mkdir()
    (directory.parent / "incomplete.ABC_1.0.0" / "part").write_text("a gigabyte")
    assert prepare(place).already_prepared == is_prepared
    assert sorted(os.listdir(directory.parent)) == ["1.0.0", "lock"]


def test_what_killed_ones_left_of_other_datasets_is_cleared(place):
    other = pathlib.Path(prepare(place, splits=["train"]).directory).parent
    (other / "incomplete.ABC_1.0.0").mkdir()
    prepare(place)
    assert sorted(os.listdir(other)) == ["1.0.0", "lock"]


def test_nothing_is_left_in_the_temporary_folder(voc, place, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    prepare(place)
    cut(voc.image("b"))
    with pytest.raises(UserError):
        prepare(place, anew=True)
    assert os.listdir(tmp_path / "temporary") == []


# --- disks and machines


@pytest.mark.parametrize("room", [100, 70_000])
def test_a_full_disk_is_one_line_and_nothing_stays(place, room):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(UserError, match=r"1\.0\.0: cannot be written \(.*make room") as raised:
            prepare(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(raised.value)
    assert [file.name for file in place["data_dir"].rglob("*") if file.is_file()] == ["lock"]
    assert not prepare(place).already_prepared


def deny(monkeypatch, name, folder):
    """Has the method of paths fail below a folder, as it does for anyone but root."""
    real = getattr(pathlib.Path, name)

    def method(path, *arguments, **options):
        if path.is_relative_to(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, name, method)


def test_a_data_dir_that_is_read_only_serves_what_is_in_it(voc, place, monkeypatch):
    prepare(place)
    deny(monkeypatch, "mkdir", place["data_dir"])
    assert prepare(place).already_prepared
    with pytest.raises(
        UserError, match=r"cannot hold datasets \(Permission denied\); give another"
    ):
        prepare(place, splits=["train"])


@pytest.mark.parametrize("folder", ["JPEGImages", "Annotations"])
def test_a_folder_that_may_not_be_read(voc, place, monkeypatch, folder):
    real = os.scandir

    def scandir(path):
        if pathlib.Path(path) == voc.root / folder:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=rf"{folder}: cannot be read \(Permission denied\)"):
        prepare(place)


def test_without_a_home_folder(voc, monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "expanduser", no_home)
    with pytest.raises(UserError, match="~/data: no home folder is known here; give a path"):
        prepare(dict(data_dir="~/data", source=voc.root))


def test_a_pipe_among_the_images(voc, place):
    voc.image("b").unlink()
    os.mkfifo(voc.image("b"))
    with pytest.raises(UserError, match=r"b\.xml: .*b\.jpg.* is no regular file"):
        prepare(place)
    report = prepare(place, skip_bad=True)
    assert [found.file for found in report.splits["train"].skipped] == [str(voc.annotation("b"))]
