"""Checkpoints of a state of a few arrays: damaged, cut off, without space, by several processes."""

import errno
import functools
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rpn_jax.errors import UserError
from rpn_jax.runs import devices
from rpn_jax.runs.config import default_config
from rpn_jax.runs.metrics import NonFiniteError
from rpn_jax.training import checkpoint
from rpn_jax.training.begin import check_run
from rpn_jax.training.checkpoint import SEAL, Checkpoints, damage, saved_steps
from rpn_jax.training.state import TrainState

ROOT = pathlib.Path(__file__).parents[2]


def make_state(step, size=1000, **fields):
    """Arrays of every rank and type that a state has, None and {} where it can have them."""
    random = np.random.default_rng(step)
    kernel = random.normal(size=(size, 2)).astype(np.float32)
    state = TrainState(
        step=np.int32(step),
        params={"frozen": jnp.bfloat16(random.normal(size=3)), "rpn": {"kernel": kernel}},
        batch_stats={},
        opt_state=((), [{"frozen": None, "rpn": {"kernel": kernel / 3}}], np.int32(step)),
    )
    return devices.replicate(state._replace(**fields))


LIKE = jax.eval_shape(lambda: make_state(0))


def assert_same(actual, step):
    expected = make_state(step)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def save(workdir, *steps, keep=3):
    checkpoints = Checkpoints(workdir, keep)
    for step in steps:
        checkpoints.save(make_state(step))
    try:
        confirm_all(checkpoints)
    finally:
        checkpoints.close()


def confirm_all(checkpoints):
    checkpoints.latest_step()  # waits for it
    checkpoints.confirm(10**6)


def restore_newest(workdir):
    checkpoints = Checkpoints(workdir, 3)
    state = checkpoints.restore_newest(LIKE)
    checkpoints.close()
    return state


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, 1, 2)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    """A work folder with checkpoints of steps 1 and 2."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture
def newest(workdir):
    return workdir / "checkpoints" / "2"


def test_a_state_comes_back_to_the_bit_though_its_arrays_were_donated(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step() is None
    assert checkpoints.restore_newest(LIKE) is None
    advance = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = make_state(7, size=200_000)
    checkpoints.save(state)
    advance(advance(state))
    assert checkpoints.latest_step() == 7
    actual = checkpoints.restore(jax.eval_shape(lambda: make_state(7, size=200_000)))
    jax.tree.map(np.testing.assert_array_equal, actual, make_state(7, size=200_000))
    assert actual.step.sharding.is_fully_replicated
    assert len(actual.step.devices()) == jax.local_device_count()
    checkpoints.close()


def test_the_newest_are_kept_and_one_that_is_there_is_not_written_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(make_state(step))
    assert checkpoints.latest_step() == 3
    assert names(checkpoints.folder) == ["1", "2", "3"]  # whether 3 is good is not known yet
    checkpoints.confirm(3)
    checkpoints.close()
    assert names(checkpoints.folder) == ["1", "2", "3"]
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert_same(checkpoints.restore_newest(LIKE), 3)
    checkpoints.confirm(4)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=2)
    written = checkpoints.latest_step(), files(tmp_path)
    checkpoints.save(make_state(3))
    checkpoints.save(make_state(2))
    assert (checkpoints.latest_step(), files(tmp_path)) == written
    assert names(checkpoints.folder) == ["2", "3"]
    assert_same(checkpoints.restore(LIKE, 2), 2)
    with pytest.raises(UserError, match="checkpoints/1: no such checkpoint; there are .*2, 3"):
        checkpoints.restore(LIKE, 1)
    checkpoints.close()


def test_the_seal_is_one_that_sha256sum_reads(newest):
    done = subprocess.run(["sha256sum", "--check", "--quiet", SEAL], cwd=newest)
    assert done.returncode == 0
    *lines, count = (newest / SEAL).read_text().splitlines()
    assert count == f"# {len(lines)} files"
    assert len(lines) == len(files(newest)) - 1


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed_in_every_file(newest):
    assert damage(newest) is None
    assert len(files(newest)) > 10
    for path in files(newest):
        before = path.read_bytes()
        flip_a_bit(path)
        assert damage(newest) is not None, path
        path.write_bytes(before)
    assert damage(newest) is None


def truncate(folder):
    largest = max(files(folder), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 1)


def delete_half(folder):
    for path in files(folder)[::2]:
        path.unlink()


def shorten_the_seal(folder):
    lines = (folder / SEAL).read_text().splitlines(keepends=True)
    (folder / SEAL).write_text("".join(lines[: len(lines) // 2]))


def drop_a_line_of_the_seal(folder):
    lines = (folder / SEAL).read_text().splitlines(keepends=True)
    (folder / SEAL).write_text("".join(lines[1:]))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    truncate: r"default/\S+ has changed",
    lambda folder: flip_a_bit(folder / "default" / "_METADATA"): "_METADATA has changed",
    lambda folder: (folder / SEAL).write_bytes(b"\xff\n"): f"{SEAL} has changed",
    delete_half: "is missing",
    shorten_the_seal: "has been added",
    drop_a_line_of_the_seal: f"{SEAL} has changed",
    lambda folder: (folder / SEAL).unlink(): f"{SEAL} is missing",
    empty: f"{SEAL} is missing",
}


@pytest.mark.parametrize(("do", "reason"), DAMAGES.items())
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_it_used(
    workdir, newest, do, reason, capsys
):
    do(newest)
    remains = [path.relative_to(newest) for path in files(newest)]

    reader = Checkpoints(workdir, read_only=True)
    with pytest.raises(UserError, match=f"checkpoints/2: damaged: .*{reason}.*before it is 1"):
        reader.restore(LIKE)
    assert_same(reader.restore(LIKE, 1), 1)
    assert names(workdir) == ["checkpoints"]

    assert_same(restore_newest(workdir), 1)
    assert names(workdir / "checkpoints") == ["1"]
    aside = workdir / "damaged" / "2"
    assert [path.relative_to(aside) for path in files(aside)] == remains
    assert f"{newest}: damaged: " in capsys.readouterr().err


def test_what_others_left_among_the_checkpoints_is_passed_over(workdir, newest):
    (newest / ".DS_Store").write_text("of a file manager")
    (workdir / "checkpoints" / "24").write_text("a file")
    for name in ("00024", "٣", "-1", "notes"):
        (workdir / "checkpoints" / name).mkdir()
    assert saved_steps(workdir) == [1, 2]
    assert_same(restore_newest(workdir), 2)
    assert not (workdir / "damaged").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_state_that_a_run_cannot_go_on_with_is_not_kept(tmp_path, bad):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(make_state(1))
    state = make_state(2)
    kernel = state.params["rpn"]["kernel"]
    params = {**state.params, "rpn": {"kernel": kernel.at[0].set(bad)}}
    checkpoints.save(state._replace(params=params))
    with pytest.raises(NonFiniteError, match=r"^after step 2, params\.rpn\.kernel holds values"):
        checkpoints.close()
    assert names(tmp_path / "checkpoints") == ["1"]
    assert_same(restore_newest(tmp_path), 1)


@pytest.mark.parametrize("name", ["r [x]", "exp*", "a?"])
def test_a_folder_whose_name_has_wildcards_is_refused(tmp_path, name):
    for use in (Checkpoints, lambda workdir: check_run(default_config(), workdir)):
        with pytest.raises(UserError, match=r"may not have \*, \? or \[ in its path"):
            use(tmp_path / name / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_all_of_whose_checkpoints_are_damaged_says_so_and_begins_anew(workdir, capsys):
    for _ in range(2):
        for folder in (workdir / "checkpoints").iterdir():
            truncate(folder)
        checkpoints = Checkpoints(workdir, 3)
        assert checkpoints.restore_newest(LIKE) is None
        assert "no checkpoint is left; the run begins anew" in capsys.readouterr().err
        checkpoints.save(make_state(1))
        checkpoints.save(make_state(2))
        assert checkpoints.latest_step() == 2
        checkpoints.close()
    assert names(workdir / "damaged") == ["1", "1.again", "2", "2.again"]
    assert_same(restore_newest(workdir), 2)


def test_a_network_that_is_not_the_checkpoints_is_not_taken_for_damage(workdir, newest):
    other = LIKE._replace(params=make_state(0).params | {"stem": np.zeros(3)})
    for forget_the_seals in (False, True):
        if forget_the_seals:
            for path in workdir.rglob(SEAL):
                path.unlink()
        with pytest.raises(UserError, match=r"does not fit .*: params.stem is absent there, \(3,"):
            Checkpoints(workdir).restore_newest(other)
    assert names(newest.parent) == ["1", "2"]


class OlderState(NamedTuple):
    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any


def test_checkpoints_of_an_older_version_load_until_there_are_sealed_ones(tmp_path, capsys):
    manager = ocp.CheckpointManager(tmp_path / "checkpoints")
    for step in (1, 2):
        manager.save(step, args=ocp.args.StandardSave(OlderState(*make_state(step)[:4])))
    manager.close()
    assert_same(Checkpoints(tmp_path, read_only=True).restore(LIKE), 2)
    assert f"checkpoints/2: has no {SEAL}, so that damage" in capsys.readouterr().err
    # Its writer was killed before Orbax was done, and the disk lost some of the one before that.
    half = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp-17"
    shutil.copytree(tmp_path / "checkpoints" / "2", half)
    delete_half(tmp_path / "checkpoints" / "2")
    assert_same(restore_newest(tmp_path), 1)
    assert names(tmp_path / "checkpoints") == ["1"]
    error = capsys.readouterr().err
    assert "checkpoints/2: damaged: " in error
    assert f"checkpoints/1: has no {SEAL}, so that damage" in error
    save(tmp_path, 2)
    assert_same(restore_newest(tmp_path), 2)
    assert capsys.readouterr().err == ""
    assert names(tmp_path / "checkpoints") == ["1", "2"]


def test_a_checkpoint_is_not_deleted_while_it_is_read(tmp_path, monkeypatch):
    save(tmp_path, 1)
    kept = []

    def load(self, *arguments):
        save(tmp_path, 2, 3, keep=1)
        kept.extend(names(self.folder))
        return original(self, *arguments)

    original = Checkpoints._load
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_load", load)
        assert_same(Checkpoints(tmp_path, read_only=True).restore(LIKE), 1)
    assert kept == ["1", "3"]
    save(tmp_path, 4, keep=1)
    assert names(tmp_path / "checkpoints") == ["4"]


def test_averages_are_kept_where_there_are_any(tmp_path):
    state = make_state(5, ema={"params": {"frozen": None, "kernel": np.ones(2)}})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(state), state)
    with pytest.raises(UserError, match=r"ema.params.kernel is \(2,\) there, absent here"):
        checkpoints.restore(LIKE)
    checkpoints.close()


def test_a_kill_at_any_moment_leaves_one_checkpoint_that_is_found(tmp_path, monkeypatch):
    """The folder as it is before and after each of the operations that make up a save."""
    workdir, moments = tmp_path / "run", tmp_path / "moments"
    save(workdir, 1, keep=1)

    def take():
        shutil.copytree(workdir, moments / str(len(list(moments.glob("*")))))

    def watched(operation, halfway=None):
        @functools.wraps(operation)
        def wrapper(path, *args, **kwargs):
            take()
            if halfway:
                halfway(path)
                take()
            result = operation(path, *args, **kwargs)
            take()
            return result

        return wrapper

    with monkeypatch.context() as patched:
        checkpoints = Checkpoints(workdir, keep=1)
        patched.setattr(checkpoint, "seal", watched(checkpoint.seal))
        patched.setattr(pathlib.Path, "rename", watched(pathlib.Path.rename))
        patched.setattr(shutil, "rmtree", watched(shutil.rmtree, halfway=delete_half))
        checkpoints.save(make_state(2))
        confirm_all(checkpoints)
        checkpoints.close()

    found = []
    for moment in sorted(moments.iterdir(), key=lambda path: int(path.name)):
        state = restore_newest(moment)
        found.append(int(state.step))
        assert_same(state, found[-1])
        # Nothing is left over, and nothing whole has been taken for damaged.
        assert names(moment) == ["checkpoints"]
        assert set(names(moment / "checkpoints")) <= {"1", "2"}
    assert found == sorted(found)
    assert set(found) == {1, 2}
    assert len(found) >= 9


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_leaves_the_earlier_checkpoints(small_disk):
    save(small_disk, 1, 2)
    kept = files(small_disk)
    checkpoints = Checkpoints(small_disk, 3)
    expected = (
        r"checkpoints: the checkpoint of step 3 cannot be written: No space left on device; "
        r"3.2 MB are needed, 0.\d MB are free; .* goes on from step 2$"
    )
    with pytest.raises(UserError, match=expected):
        checkpoints.save(make_state(3, size=200_000))
    checkpoints.close()
    assert files(small_disk) == kept
    # Not one byte is left, and Orbax finds that out in the background.
    with pytest.raises(OSError, match="No space"):
        (small_disk / "full").write_bytes(bytes(2**20))
    with pytest.raises(UserError, match="0.0 MB are needed, 0.0 MB are free"):
        save(small_disk, 3)
    assert files(small_disk) == [*kept, small_disk / "full"]
    assert_same(restore_newest(small_disk), 2)


def test_a_save_that_failed_in_the_background_is_told_once_and_by_check(workdir, monkeypatch):
    released = threading.Event()

    def fail(folder):
        released.wait(60)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(checkpoint, "seal", fail)
    checkpoints = Checkpoints(workdir, 3)
    checkpoints.save(make_state(3))
    checkpoints.check()  # as long as it may still succeed
    released.set()
    assert checkpoints.latest_step() == 2
    with pytest.raises(UserError, match="Disk quota exceeded"):
        checkpoints.check()
    checkpoints.check()
    checkpoints.close()
    assert names(checkpoints.folder) == ["1", "2"]


SCRIPT = """
import pathlib, sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from training.test_checkpoint import LIKE, assert_same, make_state
from rpn_jax.training.checkpoint import Checkpoints
assert jax.device_count() == 4
checkpoints = Checkpoints(pathlib.Path(sys.argv[3]), keep=2)
assert_same(checkpoints.restore_newest(LIKE), 1)
checkpoints.save(make_state(3))
checkpoints.close()
"""


def test_two_processes_go_on_with_what_one_saved_and_one_with_what_two_did(workdir, newest):
    truncate(newest)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, address, str(number), str(workdir)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    assert [error.count("checkpoints/2: damaged") for error in errors] == [1, 0]
    assert names(workdir / "checkpoints") == ["1", "3"]
    assert_same(restore_newest(workdir), 3)
