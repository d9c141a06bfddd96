"""`rpn-jax COMMAND …`: the command line, also `python -m rpn_jax COMMAND …`."""

import sys

from rpn_jax.console import console

if __name__ == "__main__":
    sys.exit(console())  # which imports this module, by its name

import argparse
import contextlib
import importlib
import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from importlib import metadata, util

from rpn_jax import __version__
from rpn_jax.commands import (
    alternate,
    anchors,
    compare,
    compile,
    detect,
    evaluate,
    info,
    prepare,
    preview,
    propose,
    report,
    status,
    sweep,
    train,
)
from rpn_jax.commands.weights import export, export_weights, import_weights
from rpn_jax.errors import StoppedError, UserError, first_line
from rpn_jax.text import printable, shell_line

COMMANDS = {
    "prepare": prepare,
    "anchors": anchors,
    "preview": preview,
    "info": info,
    "train": train,
    "alternate": alternate,
    "evaluate": evaluate,
    "propose": propose,
    "detect": detect,
    "sweep": sweep,
    "status": status,
    "report": report,
    "compare": compare,
    "compile": compile,
    "import-weights": import_weights,
    "export-weights": export_weights,
    "export": export,
}


def command_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line, without the flags of a config's fields."""
    parser = argparse.ArgumentParser(
        prog="rpn-jax",
        description="Faster R-CNN and its RPN in JAX: prepare a dataset, train on it, "
        "measure, propose boxes and detect objects in any image.",
        epilog="rpn-jax COMMAND --help says more about a command, info --fields lists "
        "the fields of a config.",
    )
    parser.add_argument("--version", action="version", version=f"rpn-jax {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=str(command.__doc__).splitlines()[0],
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(subparser)
        subparser.add_argument(
            "--traceback", action="store_true", help="show where in the code an error arose"
        )
    return parser


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that asks how a command line goes on, if argcomplete is installed."""
    if "_ARGCOMPLETE" in os.environ:
        with contextlib.suppress(ImportError):
            importlib.import_module("argcomplete").autocomplete(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; leaves the process as it was.

    That is 0, 1 for an error, 75 (EX_TEMPFAIL of sysexits.h) when a run was asked to stop and goes
    on if it is started again, 130 when interrupted, 141 when what read its output has closed it.
    """
    parser = command_parser()
    complete(parser)
    # argparse takes an argument with a space in it, such as a tuple, for no flag.
    given = sys.argv[1:] if argv is None else list(argv)
    fields = [argument for argument in given if argument.startswith("--config.")]
    others = [argument for argument in given if argument not in fields]
    arguments, unknown = parser.parse_known_args(others)
    overrides = [*fields, *unknown]
    with _settings_of_a_command():
        return _run(arguments, overrides)


@contextlib.contextmanager
def _settings_of_a_command() -> Iterator[None]:
    """Sets what JAX, Orbax and imports heed in a command, and sets it back afterwards."""
    names = "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
    before = {name: os.environ.get(name) for name in names}
    absl = logging.getLogger("absl")
    level = absl.level
    set_cpu_flags()
    # Orbax warns of options that follow from others, and shows the errors that it raises as well.
    absl.setLevel(logging.CRITICAL)
    keep_compiled_programs()
    # Parts of one's own may lie where the command is given, as for `python -m`.
    paths = list(sys.path)
    sys.path.append("")
    try:
        yield
    finally:
        sys.path[:] = paths
        absl.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Returns the exit status of a command, after a line about what went wrong."""
    try:
        COMMANDS[arguments.command].run(arguments, overrides)
    except UserError as error:
        if arguments.traceback:
            _show_traceback()
        print(f"error: {_with_config(str(error), arguments, overrides)}", file=sys.stderr)
        return _failed()
    except StoppedError as stopped:
        from rpn_jax.runs.processes import is_first

        if is_first():
            print(f"{stopped}; the same command goes on from there", file=sys.stderr)
        return 130 if stopped.interrupted else os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _failed(130)
    except BrokenPipeError:
        # As `head` closes it. What is still buffered must go somewhere when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if not arguments.traceback:
            _end_if_lost(error)
        _show_traceback()
        return _failed()
    return 0


def _show_traceback() -> None:
    """Prints where the error that is being handled arose; names in its message are escaped."""
    for line in traceback.format_exc().split("\n"):
        print(printable(line), file=sys.stderr)


def _with_config(message: str, arguments: argparse.Namespace, overrides: Sequence[str]) -> str:
    """Returns a message whose advice to prepare the data names the config that was used."""
    config, workdir = (getattr(arguments, name, None) for name in ("config", "workdir"))
    if config is None and workdir is not None:
        config = workdir / "config.json"
    data = [override for override in overrides if override.startswith("--config.data.")]
    used = shell_line([f"--config={config}", *data])
    return message.replace("prepare --config=…", f"prepare {used}") if config else message


def _end_if_lost(error: Exception) -> None:
    """Ends this process with a line if the error says that another one of its job is gone."""
    if "jax" in sys.modules:
        from rpn_jax.runs import lost

        if lost.is_loss(error):
            lost.end(first_line(error))


def _failed(status: int = 1) -> int:
    """Returns the status of a failure; one of several processes ends here, and fails the others.

    At a usual exit JAX would wait for them, which wait for this one.
    """
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def keep_compiled_programs() -> None:
    """Has JAX keep what it compiles on disk, so that the second start of a run begins at once.

    Small programs too: for them alone XLA's compiler would be brought into memory at every start,
    30 MB of it. Variables that choose otherwise stay as they are.
    """
    place = os.path.expanduser("~/.cache/rpn_jax/compiled")
    if not os.path.isabs(place):  # HOME is not set, and the system does not know the user
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", place)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def set_cpu_flags() -> None:
    """Tells XLA's CPU backend what makes a training step smaller and quicker.

    It is to order operations so that little is in memory at once. By default it begins whatever
    could run side by side: a VGG-16 step of 600x800 pixels then takes 1.35 GB of scratch memory in
    place of 0.55, and no less time.

    And it is to heed `lax.optimization_barrier`. Up to JAX 0.10 it otherwise drops barriers before
    it fuses: the maximum of each window of a pool is then found again for every pixel of its
    gradient. Other backends share that flag, so it is set where there is none. Loops over very
    little then become like all others: the compiler that they have instead knows nothing of
    barriers, and ends the process at one.

    To be called before JAX is imported; `XLA_FLAGS` that choose otherwise stay as they are.
    """
    chosen = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if _only_cpus():
        chosen["xla_disable_hlo_passes"] = "cse_barrier_expander,small-while-loop-hoisting"
    flags = os.environ.get("XLA_FLAGS", "")
    more = [f"--{name}={value}" for name, value in chosen.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *more]).strip()


def _only_cpus() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    plugins = metadata.entry_points(group="jax_plugins")
    return not (plugins or util.find_spec("jax_plugins") or util.find_spec("libtpu"))
