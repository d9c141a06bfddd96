"""Checkpoints: saving and resuming a run, by Orbax.

    WORKDIR/checkpoints/STEP            complete, read back, with a seal (see `runs.seal`)
    WORKDIR/checkpoints/STEP.unsealed   being written, or left so by a killed run
    WORKDIR/checkpoints/STEP.deleted    being deleted, or left so by a killed run
    WORKDIR/damaged/STEP                changed since it was sealed, or of a diverged run

A rename creates or removes a checkpoint. An older checkpoint is removed only after a newer one
exists and the next loss was finite, and not while another process reads it. So a run killed at any
moment leaves its newest checkpoint, and no partial one. The seal detects later damage. With several
processes, all write and read; only the first reads back, seals, judges, moves and deletes.
"""

import contextlib
import errno
import glob
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent import futures

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rpn_jax.errors import UserError, first_line, list_some
from rpn_jax.models.rcnn import current_path
from rpn_jax.runs import lost, processes
from rpn_jax.runs.devices import AXIS, replicate
from rpn_jax.runs.metrics import NonFiniteError
from rpn_jax.runs.seal import SEAL, being_read, damage, flush, seal, unread
from rpn_jax.text import printable, shell_line
from rpn_jax.training.saved_arrays import ITEM, by_name, name_of, read_arrays, shapes_of, unsound
from rpn_jax.training.state import TrainState

_ATTEMPTS = 20  # to read the newest checkpoint while its run keeps replacing it


def checkpoints_folder(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a run's checkpoints; raises a `UserError` if Orbax would misread it."""
    folder = pathlib.Path(os.path.abspath(workdir / "checkpoints"))
    if glob.escape(str(folder)) != str(folder):
        raise UserError(
            f"--workdir={workdir}: a folder of checkpoints may not have *, ? or [ in its path, "
            "which Orbax takes for wildcards; give another folder, or a link to it without them"
        )
    return folder


class Checkpoints:
    """The newest `keep` checkpoints (at least one) of a work folder, and one that is held.

    With several processes, each makes a `Checkpoints`, and all call its methods together, except
    `check`.
    """

    def __init__(self, workdir: pathlib.Path, keep: int = 1, *, read_only: bool = False):
        self.folder = checkpoints_folder(workdir)
        self._workdir = workdir
        self._read_only = read_only
        self._keep = max(keep, 1)
        self._orbax = ocp.StandardCheckpointer()
        self._background = futures.ThreadPoolExecutor(max_workers=1)
        self._saving: futures.Future | None = None
        self._unconfirmed: int | None = None
        self._held: int | None = None
        self._latest: int | None = processes.on_first(self._open)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, None if there is none.

        Waits for a checkpoint that is being written. Does not check the files for damage.
        """
        if self._saving is not None:
            futures.wait([self._saving])
        return self._latest

    def save(self, state: TrainState) -> None:
        """Begins to write the state, unless a checkpoint of its step or a later one exists.

        The arrays may be donated when the call returns. Writing goes on in the background; the next
        call, or `close`, waits for it. Checkpoints beyond `keep` stay until `confirm`.

        Raises:
            UserError: this state cannot be written, or the previous one could not.
            NonFiniteError: the previous state was not finite, and was not kept.
        """
        self._finish_saving()
        step = int(state.step)
        if self._latest is not None and step <= self._latest:
            return
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        processes.on_first(lambda: self._check_space(step, size))
        with self._explained(step, size):
            self._orbax.save(self._unsealed(step) / ITEM, _to_global(state))
        self._saving = self._background.submit(self._commit, step, size, shapes_of(by_name(state)))

    def confirm(self, step: int) -> None:
        """Deletes checkpoints beyond `keep`; call it when the losses up to `step` were finite.

        The loss of step s depends on the parameters after step s - 1. Never waits.

        Raises:
            UserError: a save has failed in the background.
            NonFiniteError: see `save`.
        """
        self.check()
        if self._unconfirmed is not None and self._unconfirmed < step:
            self._unconfirmed = None
            if processes.is_first():
                self._background.submit(self._delete_beyond, self._keep)

    def hold(self, step: int | None) -> None:
        """Keeps the checkpoint of a step beside the newest ones, until another is held."""
        self._held = step

    def reject(self, step: int, problem: str) -> None:
        """Sets aside the checkpoints of `step` and later, whose parameters are useless."""
        if self._saving is not None:
            futures.wait([self._saving])

        def set_aside():
            for bad in self._steps():
                if bad >= step:
                    self._set_aside(bad, problem)
            return max(self._steps(), default=None)

        self._latest = processes.on_first(set_aside)

    def check(self) -> None:
        """Raises the `UserError` of a save that has failed in the background; never waits."""
        if self._saving is not None and self._saving.done():
            self._finish_saving()

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Returns the state of a step (the newest by default) on all local devices.

        `like` is a state, or its shapes and types.

        Raises:
            UserError: the checkpoint does not exist, is damaged (names an earlier undamaged one),
                or does not hold a state like `like`.
        """
        self._finish_saving()
        for _ in range(_ATTEMPTS):
            found = processes.on_first(lambda: self._checked(step))
            try:
                with being_read(self._at(found)):
                    state = self._load(like, found)
            except _UnreadableError as error:
                problem = f"cannot be read: {error}"
            else:
                problem = unsound(by_name(state))
                if problem is None:
                    return state
                problem = f"{problem}: the run had diverged; give --step of an earlier one"
            if processes.on_first(lambda: self._at(found).exists()):  # noqa: B023
                break
            # A run at work in the folder has just replaced it.
        raise UserError(f"{self._at(found)}: {problem}")

    def restore_newest(self, like: TrainState) -> TrainState | None:
        """Returns the newest undamaged state, to resume from; None if there is none.

        Checkpoints that are damaged, or hold values that are not finite, are named on stderr and
        moved to `WORKDIR/damaged`. Checkpoints without a seal, which earlier versions of the
        project wrote, are used if none with a seal is left.

        Raises:
            UserError: the checkpoint does not hold a state like `like`.
        """
        found, state = self._latest, None
        while (step := processes.on_first(self._newest_whole)) is not None:
            problem = None
            try:
                state = self._load(like, step)
            except _UnreadableError as error:
                problem = str(error)
            else:
                if unsound_values := unsound(by_name(state)):
                    processes.on_first(lambda: self._set_aside(step, unsound_values))  # noqa: B023
                    continue
            problems = [text for text in processes.gather(problem) if text]
            if not problems:
                break
            processes.on_first(lambda: self._give_up(step, problems[0]))  # noqa: B023
        if step is None and found is not None and processes.is_first():
            _say(f"{self.folder}: no checkpoint is left; the run begins anew")
        self._latest = self._unconfirmed = step
        return state if step is not None else None

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: a save failed.
        """
        try:
            self._finish_saving()
        finally:
            self._background.shutdown()
            with contextlib.suppress(OSError, ValueError):  # the same failure again
                self._orbax.close()
            if processes.is_first() and not self._read_only:
                # A failed save returns while some of its threads still write.
                self._remove_unfinished("*")

    def _open(self) -> int | None:
        if not self._read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished("*")
        elif not self.folder.is_dir():
            raise UserError(
                f"{self._workdir}: holds no checkpoints; "
                "train there first: rpn-jax train --config=… "
                f"{shell_line([f'--workdir={self._workdir}'])}"
            )
        return max(self._steps(), default=None)

    def _at(self, step: int) -> pathlib.Path:
        return self.folder / str(step)

    def _unsealed(self, step: int) -> pathlib.Path:
        return self.folder / f"{step}.unsealed"

    def _steps(self) -> list[int]:
        return saved_steps(self._workdir)

    def _is_sealed(self, step: int) -> bool:
        return (self._at(step) / SEAL).exists()

    def _finish_saving(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _commit(self, step: int, size: int, shapes: dict[str, tuple[int, ...]]) -> None:
        """Waits for Orbax, turns its files into a checkpoint, deletes surplus checkpoints."""
        with self._explained(step, size):
            self._orbax.wait_until_finished()
            if processes.is_first():
                self._read_back(step, shapes)
                seal(self._unsealed(step))
                self._unsealed(step).rename(self._at(step))
                flush(self.folder)
                self._delete_beyond(self._keep + 1)
        self._latest = self._unconfirmed = step

    def _delete_beyond(self, count: int) -> None:
        for old in self._steps()[:-count]:
            if old == self._held:
                continue
            with unread(self._at(old)) as is_free:
                if is_free:
                    self._at(old).rename(self.folder / f"{old}.deleted")
            self._remove_unfinished(str(old))

    def _read_back(self, step: int, shapes: dict[str, tuple[int, ...]]) -> None:
        """Checks that the written files are complete and their values are sound."""
        try:
            leaves = read_arrays(self._unsealed(step))
        except Exception as error:  # Orbax may raise anything
            raise ValueError(f"reading it back: {first_line(error)}") from error
        if shapes_of(leaves) != shapes:
            raise ValueError("read back, it lacks some of what was to be written")
        if problem := unsound(leaves):
            self._remove_unfinished(str(step))
            raise NonFiniteError(step, f"after step {step}, {problem}")

    def _remove_unfinished(self, step: str) -> None:
        # The last pattern is of earlier versions, where Orbax did the renaming.
        for suffix in ("unsealed", "deleted", "orbax-checkpoint-tmp*"):
            for path in self.folder.glob(f"{step}.{suffix}"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)  # the next run tries again
                else:
                    path.unlink(missing_ok=True)

    def _check_space(self, step: int, size: int) -> None:
        # Checked here because Orbax fails with a page of tracebacks. Some cloud file systems report
        # 0 when there is no limit.
        if 0 < shutil.disk_usage(self.folder).free < size:
            raise self._unwritten(step, self._no_space(errno.ENOSPC, size))

    @contextlib.contextmanager
    def _explained(self, step: int, size: int) -> Iterator[None]:
        """Removes the files of a failed save, and raises an error with a remedy."""
        try:
            yield
        except (OSError, ValueError) as error:  # Orbax raises ValueError for system errors
            if lost.is_loss(error):
                raise
            if processes.is_first():
                self._remove_unfinished(str(step))
            reason = first_line(error)
            for code in (errno.ENOSPC, errno.EDQUOT):
                if os.strerror(code) in str(error):
                    reason = self._no_space(code, size)
            raise self._unwritten(step, reason) from error

    def _no_space(self, code: int, size: int) -> str:
        free = shutil.disk_usage(self.folder).free
        return f"{os.strerror(code)}; {size / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"

    def _unwritten(self, step: int, reason: str) -> UserError:
        kept = self._latest
        place = "its beginning, as none was kept yet" if kept is None else f"step {kept}"
        return UserError(
            f"{self.folder}: the checkpoint of step {step} cannot be written: {reason}; put that "
            f"right and start the run again: it goes on from {place}"
        )

    def _checked(self, step: int | None) -> int:
        """Returns the step to restore, after a check of its checkpoint for damage."""
        steps = self._steps()
        if not steps:
            raise UserError(f"{self.folder}: no checkpoint yet; train until one is written")
        chosen = steps[-1] if step is None else step
        if chosen not in steps:
            kept = list_some(map(str, steps))
            raise UserError(f"{self._at(chosen)}: no such checkpoint; there are those of {kept}")
        problem = self._problem(chosen)
        if problem is None:
            self._tell_without_seal(chosen)
            return chosen
        if not self._at(chosen).exists():
            return self._checked(step)  # a run at work in the folder has just deleted it
        earlier = [other for other in reversed(steps) if other < chosen]
        whole = next((other for other in earlier if self._problem(other) is None), None)
        remedy = "there is no earlier one" if whole is None else f"the one before it is {whole}"
        raise UserError(f"{self._at(chosen)}: damaged: {problem}; {remedy}")

    def _problem(self, step: int) -> str | None:
        """Returns the problem of a step's checkpoint; a seal may be missing only if all are."""
        return damage(self._at(step)) if any(map(self._is_sealed, self._steps())) else None

    def _newest_whole(self) -> int | None:
        """Returns the newest usable step, and sets newer ones aside."""
        steps = self._steps()[::-1]
        without_seal = [step for step in steps if not self._is_sealed(step)]
        for step in filter(self._is_sealed, steps):
            problem = damage(self._at(step))
            if problem is None:
                for newer in (other for other in without_seal if other > step):
                    self._set_aside(newer, damage(self._at(newer)))
                return step
            self._set_aside(step, problem)
        for step in without_seal:
            self._tell_without_seal(step)
            return step
        return None

    def _tell_without_seal(self, step: int) -> None:
        if self._at(step).exists() and not self._is_sealed(step):
            _say(
                f"{self._at(step)}: has no {SEAL}, so that damage would not be seen; it is used, "
                "as no checkpoint here has one, which earlier versions did not write"
            )

    def _give_up(self, step: int, problem: str) -> None:
        """Sets aside a checkpoint that cannot be read, unless its files match their seal."""
        if self._is_sealed(step):
            raise UserError(f"{self._at(step)}: cannot be read: {problem}")
        self._set_aside(step, problem)

    def _set_aside(self, step: int, problem: str) -> None:
        target = self._workdir / "damaged" / str(step)
        while target.exists():
            target = target.with_name(f"{target.name}.again")
        target.parent.mkdir(exist_ok=True)
        shutil.move(self._at(step), target)
        _say(f"{self._at(step)}: damaged: {problem}; set aside as {target}")

    def _load(self, like: TrainState, step: int) -> TrainState:
        """Returns the state of a step, read by all processes together.

        Leaves are found by name, so that fields without leaves may have been added since the save.
        """
        folder = self._at(step) / ITEM
        everywhere = NamedSharding(_global_mesh(), PartitionSpec())
        wanted = by_name(like)
        try:
            metadata = self._orbax.metadata(folder).item_metadata
            if metadata is None:
                raise FileNotFoundError("its metadata is missing")
            saved = by_name(metadata.tree, current_path)
            if shapes_of(saved) == shapes_of(wanted):
                abstract = jax.tree_util.tree_map_with_path(
                    lambda path, leaf: jax.ShapeDtypeStruct(
                        leaf.shape, wanted[name_of(path, current_path)].dtype, sharding=everywhere
                    ),
                    metadata.tree,
                )
                leaves = by_name(self._orbax.restore(folder, abstract), current_path)
                ordered = [leaves[name] for name in wanted]
                return _to_local(jax.tree.unflatten(jax.tree.structure(like), ordered))
        except Exception as error:  # damaged files may raise anything
            raise _UnreadableError(first_line(error)) from error
        here, there = shapes_of(wanted), shapes_of(saved)
        name = min(name for name, _ in here.items() ^ there.items())
        raise UserError(
            f"{self._at(step)}: does not fit this config: {name} is {there.get(name, 'absent')} "
            f"there, {here.get(name, 'absent')} here; give the config that it was trained with"
        )


class _UnreadableError(Exception):
    """Orbax cannot read a checkpoint."""


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints in a work folder; ignores other names."""
    folder = workdir / "checkpoints"
    paths = list(folder.iterdir()) if folder.is_dir() else []
    return sorted(
        int(path.name)
        for path in paths
        if re.fullmatch("0|[1-9][0-9]*", path.name) and path.is_dir()
    )


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _global_mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def _to_global(state):
    """Returns arrays that span all processes, for Orbax; pmap's span the local devices."""
    if jax.process_count() == 1:
        return state
    return multihost_utils.host_local_array_to_global_array(state, _global_mesh(), PartitionSpec())


def _to_local(state):
    if jax.process_count() > 1:
        state = multihost_utils.global_array_to_host_local_array(
            state, _global_mesh(), PartitionSpec()
        )
    return replicate(state)
