"""The end of a process whose job has lost another one: one line, and the status 75.

A process is lost if it was killed, if its machine failed, or if it stands still. JAX learns so from
heartbeats, in threads of C++, and then aborts the process with a page of messages: from there no
Python exception reaches `main`. `told_by_jax` has it call `end` instead.
"""

import contextlib
import ctypes
import functools
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn
from unittest import mock

import jax

# In the messages of JAX and Orbax that come as other errors than JaxRuntimeError.
_WORDS = re.compile(r"Gloo |[Bb]arrier|[Cc]oordination|Timeout waiting for key")
_ENDING = threading.Lock()
_KEPT: list[Any] = []  # what C++ calls must not be freed


def end(reason: str = "") -> NoReturn:
    """Ends this process at once, with a line; several threads may call it."""
    _ENDING.acquire()  # for ever: the first one ends the process
    line = what_is_said(reason)
    # No lock of Python's streams, which the interrupted thread may hold; a progress bar in a
    # terminal leaves its line open.
    os.write(2, f"{os.linesep if os.isatty(2) else ''}{line}\n".encode())
    os._exit(os.EX_TEMPFAIL)


def what_is_said(reason: str = "") -> str:
    """Returns the line of `end`; a `reason` that only tells of connections is left out."""
    more = f": {reason}" if reason and not _WORDS.search(reason) else ""
    return (
        f"error: another process of this job has ended or does not answer{more}; its own output "
        "says why; the same command goes on from the newest checkpoint, and begins anew where "
        "there is none"
    )


def is_loss(error: BaseException) -> bool:
    """Returns whether an error, or what it arose from, is what JAX raises for a lost process."""
    if not jax.distributed.is_initialized() or "RESOURCE_EXHAUSTED" in str(error):
        return False
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return any(isinstance(e, jax.errors.JaxRuntimeError) or _WORDS.search(str(e)) for e in chain)


def leave() -> None:
    """Leaves the job at the end of a command, together with the other processes."""
    try:
        jax.distributed.shutdown()
    except Exception:  # where this thread calls the client, `std::bad_cast` arrives here
        end()


@contextlib.contextmanager
def told_by_jax() -> Iterator[None]:
    """Has the client that `jax.distributed.initialize` makes in this block call `end` upon a loss.

    The client takes a callback, which `initialize` does not pass on. Up to JAX 0.11 at least, the
    client cannot convert the callback's argument: C++ then ends the process by `std::bad_cast`,
    which `_end_upon_bad_cast` turns into the call. JAX's own messages are left out;
    JAX_LOGGING_LEVEL=ERROR in the environment shows them.

    Where a version of JAX has none of this, it aborts as it always did.
    """
    from jax._src import distributed

    module = getattr(distributed, "_jax", None)
    make = getattr(module, "get_distributed_runtime_client", None)
    if make is None or "missed_heartbeat_callback" not in (make.__doc__ or ""):
        yield
        return
    _end_upon_bad_cast()
    chosen = jax.config.jax_logging_level
    if chosen == "NOTSET":
        jax.config.update("jax_logging_level", "CRITICAL")  # the one way to tell C++
        jax.config.update("jax_logging_level", chosen)  # Python's messages are as before
    told = functools.partial(make, missed_heartbeat_callback=lambda _: end())
    with mock.patch.object(module, "get_distributed_runtime_client", told):
        yield


def _end_upon_bad_cast() -> None:
    """Has C++ call `end`, rather than abort, when nothing catches a `std::bad_cast`.

    The names are those of the C++ ABI on Linux. Other exceptions abort as before.
    """
    if _KEPT or sys.platform != "linux":
        return
    function = ctypes.CFUNCTYPE(None)
    try:
        runtime = ctypes.CDLL("libstdc++.so.6")  # JAX has loaded it
        set_terminate = runtime["_ZSt13set_terminatePFvvE"]
        current_type = runtime["__cxa_current_exception_type"]
    except (OSError, AttributeError):
        return
    set_terminate.argtypes, set_terminate.restype = [function], function
    current_type.restype = ctypes.c_void_p

    @function
    def terminate():
        kind = current_type()
        # A `std::type_info` holds a pointer to its methods, then one to its name.
        name = ctypes.c_char_p.from_address(kind + ctypes.sizeof(ctypes.c_void_p)) if kind else None
        if name is not None and name.value == b"St8bad_cast":
            end()
        _KEPT[1]()

    _KEPT.append(terminate)
    _KEPT.append(set_terminate(terminate))
