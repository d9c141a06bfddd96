"""The states of runs for a terminal: one run, a sweep, and a sweep during its launch."""

import datetime
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rpn_jax.evaluation.figures import around_headline, in_line
from rpn_jax.sweeps.runs import STATES, RunState
from rpn_jax.text import printable

_LINE_SECONDS = 30  # between lines, without a terminal for a table
_KNOWN_SHARE = 0.03  # of the steps; before that, starting takes most of the time
_WIDTH = 200  # width of output that does not go to a terminal
_STYLES = {"done": "green", "running": "cyan", "failed": "red", "stopped": "yellow"}
_FIGURES = 3  # as many figures of a run have a column, such as AR@100, AR@300, AR@1000


def print_table(table: Table | Group) -> None:
    """Prints to stdout, as wide as the terminal."""
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def run_table(name: str, state: RunState) -> Table:
    """Returns a table with a row for each known fact about one run."""
    rows = {"run": name, "state": _state_text(state), "step": _step(state)}
    rows["training loss"] = _number(state.loss, ".4f")
    rows["images a second"] = _number(state.rate, ".3g")
    rows["time left"] = _duration(state.eta_s)
    rows["last row of the metrics"] = state.logged_s and f"{_duration(state.logged_s)} ago"
    if state.validated is not None:
        rows[f"validation, step {state.validated}"] = in_line(state.validation)
    if state.figures:
        rows["evaluation"] = in_line(state.figures)
    table = Table(show_header=False, box=None)
    for title, value in rows.items():
        if value:
            table.add_row(title, value if isinstance(value, Text) else _text(value))
    return table


def sweep_table(
    states: Mapping[str, RunState], published: tuple[str, Mapping[str, str]] = ("", {})
) -> Table:
    """Returns a table with a row for each run, in order; figures are from `evaluate`.

    `published` is a column of published figures, by run: its title, "" for none, and its cells.
    """
    of_others, cells = published
    names = [
        name
        for state in states.values()
        for name in around_headline(state.figures, state.headline, _FIGURES)
    ]
    columns = list(dict.fromkeys(names))
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for title in ("step", "loss", "images/s", "left", *columns, *filter(None, [of_others])):
        table.add_column(_text(title), justify="right")
    table.add_column("why", overflow="fold")
    for name, state in states.items():
        table.add_row(
            _text(name),
            _text(_label(state.state), state.state),
            _step(state),
            _number(state.loss, ".3f"),
            _number(state.rate, ".3g"),
            _duration(state.eta_s),
            *(_number(state.figures.get(column), ".3f") for column in columns),
            *([cells.get(name, "")] if of_others else []),
            _text(state.reason or ""),
        )
    return table


def count_states(states: Sequence[RunState]) -> str:
    """Returns `3 done, 1 running, 8 waiting`."""
    counts = {name: sum(state.state == name for state in states) for name in STATES}
    return ", ".join(f"{count} {_label(name)}" for name, count in counts.items() if count)


class Progress:
    """The progress of a sweep on stderr: a live table, or a line now and then.

    The time left is for all runs that are not done and have not failed, at the pace since the
    beginning. It is shown once enough steps are done to estimate it.
    """

    def __init__(self, states: Mapping[str, RunState], steps: Mapping[str, int]):
        self._steps = steps
        self._begun, self._begin_steps = time.monotonic(), self._sum_steps(states)
        self._shown = 0.0
        self._ended = {name for name, state in states.items() if state.state in ("done", "failed")}
        self._live = None
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), auto_refresh=False)

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._live:
            self._live.stop()

    def show(self, states: Mapping[str, RunState]) -> None:
        """Draws the table, or prints a line if one is due."""
        summary = count_states(list(states.values()))
        if left := _duration(self._left(states)):
            summary += f"; {left} left"
        if self._live:
            at_work = {
                name: state
                for name, state in states.items()
                if state.state in ("running", "failed", "stopped")
            }
            self._live.update(Group(Text(summary), sweep_table(at_work)), refresh=True)
            return
        for name, state in states.items():
            if state.state in ("done", "failed") and name not in self._ended:
                self._ended.add(name)
                print(printable(f"{state.state}: {name}{_because(state)}"), file=sys.stderr)
        if time.monotonic() > self._shown + _LINE_SECONDS or not self._shown:
            self._shown = time.monotonic()
            print(summary, file=sys.stderr, flush=True)

    def _sum_steps(self, states: Mapping[str, RunState]) -> int:
        return sum(state.step for state in states.values())

    def _left(self, states: Mapping[str, RunState]) -> float | None:
        done = self._sum_steps(states) - self._begin_steps
        left = sum(
            self._steps[name] - state.step
            for name, state in states.items()
            if state.state not in ("done", "failed")
        )
        if not left or done < _KNOWN_SHARE * (done + left):
            return None
        return left * (time.monotonic() - self._begun) / done


def _label(state: str) -> str:
    return "waiting" if state == "missing" else state


def _because(state: RunState) -> str:
    return f": {state.reason}" if state.reason else ""


def _state_text(state: RunState) -> Text:
    return _text(f"{state.state}{_because(state)}", state.state)


def _text(text: str, state: str = "") -> Text:
    """Returns text in the colour of a state; markup and control characters are shown literally."""
    return Text(printable(text), _STYLES.get(state, ""))


def _step(state: RunState) -> str:
    return f"{state.step}/{state.steps}" if state.steps else ""


def _number(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))
