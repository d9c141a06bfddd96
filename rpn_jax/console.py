"""The process of a command: its streams, its heap and Ctrl-C, before anything large is imported."""

import contextlib
import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

# Blocks of more than 32 MB go back to the system when they are freed, smaller ones are kept.
LARGE_PAGES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "arena_max": 1,
        "mmap_threshold": 2**25,
        "trim_threshold": 2**30,
    }.items()
)


def console() -> int:
    """Runs the command of this process, which is its own: it may start over.

    Ctrl-C ends it at any time with a line and status 130.
    """
    on_interrupt(_end)
    mend_streams()
    # Python begins with its own answer to Ctrl-C: if it starts over, the signal waits for ours.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    use_large_pages()
    on_interrupt(_end)
    main = importlib.import_module("rpn_jax.__main__").main
    try:
        on_interrupt(_end_or_raise)
        status = main()
        on_interrupt(_end)  # while the output is flushed and Python takes itself down
    except KeyboardInterrupt:
        _end()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    if "jax" in sys.modules:
        from rpn_jax.runs import lost

        lost.leave()
    return status


def on_interrupt(handler: Any) -> None:
    """Sets what Ctrl-C does, unless the process was started to ignore it, as `nohup … &` is."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end(number: int = signal.SIGINT, frame: FrameType | None = None) -> NoReturn:
    """Ends this process here and now."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(130)


def _end_or_raise(number: int, frame: FrameType | None) -> None:
    """Raises `KeyboardInterrupt`, or amid an import ends the process.

    There the exception may be swallowed, or leave a module of C++ that crashes when Python ends.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def mend_streams() -> None:
    """Makes sure that whatever is printed is taken, whatever a process was started with.

    A stream that was closed (`2>&-`) goes nowhere, rather than into the next file that is opened;
    letters that its encoding lacks become escapes. Orbax says by an exception why it cannot read or
    write; what its other threads still have to say of that is left out.
    """
    sys.unraisablehook = _unraisable
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
        if number and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _unraisable(error: Any) -> None:
    """Shows an exception that nobody can catch, unless it is that Orbax has given up before."""
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)


def use_large_pages() -> None:
    """Starts this process over, once, with a heap in pages of 2 MB, where Linux has them on demand.

    On a CPU a step's scratch memory is hundreds of megabytes, allocated anew each time, which the
    kernel fills with zeros page by page: with pages of 4 kB a tenth of a step of ResNet-50 goes
    there, with these a third of that. To keep what was freed saves the rest, but takes 1.2 to 1.7
    times the memory: once something small lies where a step had its own, the next has it elsewhere.
    For the same reason threads share one heap. glibc reads its tunables when a process starts.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    completes = "_ARGCOMPLETE" in os.environ  # only for the words that a shell may put in
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in tunables or completes:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, LARGE_PAGES]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
