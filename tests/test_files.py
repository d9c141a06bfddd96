import fcntl
import os
import re
import resource

import numpy as np
import pytest

from rpn_jax import files
from rpn_jax.errors import UserError
from rpn_jax.evaluation.objects import read_objects
from rpn_jax.evaluation.weighted import read_matches
from rpn_jax.files import write_bytes, write_npz
from rpn_jax.runs.history import read_run
from rpn_jax.runs.metrics import read_metrics
from rpn_jax.runs.seal import damage, seal
from rpn_jax.sweeps.runs import is_claimed, read_state


def test_replaces_a_file_and_makes_its_folder(tmp_path):
    for content in [b"old", b"new"]:
        write_bytes(tmp_path / "folder" / "file", content)
    assert (tmp_path / "folder" / "file").read_bytes() == b"new"
    assert len(list((tmp_path / "folder").iterdir())) == 1


def test_a_failure_leaves_no_part_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken: cannot be written"):
        write_bytes(tmp_path / "taken", b"content")
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "function.jax"
    write_bytes(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(UserError, match=r"function.jax: cannot be written \(.*; give another"):
            write_bytes(path, bytes(200))
        with pytest.raises(UserError, match=r"a.npz: cannot be written"):
            write_npz(tmp_path / "a.npz", a=np.arange(200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["function.jax"]
    assert path.read_bytes() == b"old"


def test_a_file_for_a_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "a.png", b"content")


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    def partial(letter):
        path = tmp_path / f".{letter * 32}.tmp"
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
        return path

    left, being_written, other = partial("a"), partial("b"), tmp_path / ".mine.tmp"
    other.write_bytes(b"the user's")
    with being_written.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as its writer holds it
        files.write_text(tmp_path / "new.txt", "new")
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [being_written.name, other.name, "new.txt"]
    )


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("objects.npz", read_objects),
        ("matches.npz", read_matches),
        ("metrics.jsonl", read_metrics),
        ("config.json", lambda path: read_run(path.parent)),
        ("state/a/end.json", lambda path: read_state(path.parents[2] / "a", "end")),
        ("lock", lambda path: is_claimed(path.parent)),
    ],
)
def test_a_pipe_in_a_folder_is_named_and_not_waited_for(tmp_path, name, read):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: a pipe"):
        read(path)


def test_a_pipe_in_a_checkpoint_is_damage(tmp_path):
    (tmp_path / "array").write_bytes(b"1")
    seal(tmp_path)
    (tmp_path / "array").unlink()
    os.mkfifo(tmp_path / "array")
    assert damage(tmp_path) == "array is missing"
