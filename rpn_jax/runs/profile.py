"""A trace of a few steps by `jax.profiler`, for XProf or Perfetto."""

import pathlib
import re
from collections.abc import Callable

import jax

from rpn_jax.errors import UserError
from rpn_jax.runs.processes import is_first


def profile_steps(text: str | None) -> range:
    """Returns the steps of `--profile_steps=FIRST:LAST`, including LAST.

    Raises:
        UserError: the text is not two steps in rising order; steps count from 1.
    """
    if text is None:
        return range(0)
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
    steps = range(int(match[1]), int(match[2]) + 1) if match else range(0)
    if not steps:
        raise UserError(
            f"--profile_steps={text}: give the first and the last step to trace, counted from 1, "
            "such as 20:25"
        )
    return steps


class StepProfiler:
    """Records `steps` alone to WORKDIR/profile, in the first process.

    A run resumed after these steps records nothing.
    """

    def __init__(self, workdir: pathlib.Path, steps: range):
        self._folder = workdir / "profile"
        self._steps = steps if is_first() else range(0)
        self._is_tracing = False

    def run(self, step: int, train_step: Callable, *arguments):
        """Returns `train_step(*arguments)`, the run's step `step`.

        Before and after the traced steps it waits for the devices, so that the trace has all work
        of these steps and of no others. At other steps it does not wait.
        """
        if step not in self._steps:
            return train_step(*arguments)
        if not self._is_tracing:
            jax.block_until_ready(arguments)
            jax.profiler.start_trace(self._folder)
            self._is_tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            results = train_step(*arguments)
        if step == self._steps[-1]:
            jax.block_until_ready(results)
            self.close()
        return results

    def close(self) -> None:
        """Ends a trace that is still open when the run ends."""
        if self._is_tracing:
            jax.profiler.stop_trace()
            self._is_tracing = False
