"""What the command line sets before JAX starts."""

import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys

import jax
import pytest

import rpn_jax
from rpn_jax.__main__ import keep_compiled_programs, main, set_cpu_flags
from rpn_jax.commands import status

PROGRAM = """
from rpn_jax.__main__ import set_cpu_flags
set_cpu_flags()
import jax, jax.numpy as jnp
def squared(x):
    return jnp.square(jax.lax.optimization_barrier(2 * x + 1))
def looped(x):
    return jax.lax.fori_loop(0, 3, lambda i, x: sum(jax.lax.optimization_barrier((x, x + i))), x)
assert jax.jit(looped)(jnp.ones(2)).tolist() == [12, 12]
print(jax.jit(squared).lower(jnp.ones((512, 512))).compile().as_text().count(" fusion("))
"""


# Without the flag, XLA drops barriers before it fuses, up to JAX 0.10; later ones fuse first.
OF_XLA_ITSELF = 1 if jax.__version_info__ < (0, 11) else 2


@pytest.mark.parametrize(
    ("flags", "fusions"), [("", 2), ("--xla_disable_hlo_passes=none", OF_XLA_ITSELF)]
)
def test_a_cpu_heeds_barriers(flags, fusions):
    """They keep what came before them from being computed again for each element behind them.

    In a loop over two numbers, too, where XLA once ended the process.
    """
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == fusions


def test_flags_for_cpus_spare_accelerators_and_what_the_user_chose(monkeypatch):
    chosen = "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_DEFAULT"
    monkeypatch.setenv("XLA_FLAGS", chosen)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == chosen
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    set_cpu_flags()
    set_cpu_flags()
    assert os.environ["XLA_FLAGS"].split()[0] == chosen
    assert os.environ["XLA_FLAGS"].count("--") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="an environment variable of Linux's glibc")
def test_a_process_starts_over_once_with_large_pages(tmp_path):
    program = """
import os, re, sys
from rpn_jax.console import use_large_pages
with open(sys.argv[1], "a") as starts:
    print(os.getpid(), os.environ["GLIBC_TUNABLES"], file=starts)
use_large_pages()
block = bytearray(2**26)
block[::4096] = bytes(len(block[::4096]))
print(re.search(r"AnonHugePages: *(\\d+)", open("/proc/self/smaps_rollup").read())[1])
"""
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.top_pad=65536"}
    command = [sys.executable, "-c", program, tmp_path / "starts"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, second = (tmp_path / "starts").read_text().splitlines()
    large_pages = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    kept = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824"
    assert second == f"{first}:{large_pages}:{kept}"
    library, version = platform.libc_ver()
    on_demand = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if (
        library == "glibc"
        and tuple(map(int, version.split("."))) >= (2, 35)
        and on_demand.exists()
        and "[never]" not in on_demand.read_text()
    ):
        assert int(done.stdout) > 2**15  # of 2**16


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_during_the_imports_is_one_line(ignored, tmp_path):
    # Both starts of the process import os; the second then imports NumPy, here one that is slow.
    (tmp_path / "numpy.py").write_text(
        "import os, signal\nsignal.raise_signal(signal.SIGINT)\nos._exit(7)"
    )
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "rpn_jax", "status", "x"],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stderr) == ((7, "") if ignored else (130, "interrupted\n"))


INTERRUPTED = """
import signal, sys
from rpn_jax import __main__, console
def run(argv=None):
    signal.raise_signal(signal.SIGINT)  # while a command is at work
__main__.main = run
def start_over():
    signal.raise_signal(signal.SIGINT)  # is held while Python starts
    print("started over", flush=True)
if sys.argv[1:]:
    console.use_large_pages = start_over
sys.exit(console.console())
"""


@pytest.mark.parametrize("given", [[], ["while starting over"]])
def test_an_interrupt_at_any_other_time_is_one_line_too(given):
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background ignore it
    try:
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, *given],
            env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
            capture_output=True,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert done.stdout == ("started over\n" if given else "")


def test_a_traceback_cannot_write_to_the_terminal(monkeypatch, capsys):
    def fail(arguments, overrides):
        raise RuntimeError("no \x1b]0;such\x07 file")

    monkeypatch.setattr(status, "run", fail)
    assert main(["status", "runs"]) == 1
    error = capsys.readouterr().err
    assert r"RuntimeError: no \x1b]0;such\x07 file" in error.splitlines()
    assert all(letter.isprintable() or letter == "\n" for letter in error)


@pytest.mark.parametrize("closed", ["", " 2>&-"])
def test_what_is_printed_is_taken_by_any_stream(tmp_path, closed):
    run = tmp_path / "Läufe"
    run.mkdir()
    (run / "config.json").write_text("{}")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = f'"{sys.executable}" -m rpn_jax status "{run}"{closed}'
    folder = pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        command, shell=True, env=environment, capture_output=True, text=True, cwd=folder
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "L\\xe4ufe" in done.stdout


def test_a_user_without_a_home_keeps_no_compiled_programs(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it then does
    keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


SCRIPT = """
import json, logging, os, signal
from rpn_jax.__main__ import main
def state():
    signals = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    ours = {name: os.environ[name] for name in os.environ if name[:4] in ("XLA_", "JAX_", "GLIB")}
    return [ours, logging.getLogger("absl").level, signals]
print("once")
before = state()
status = main()
print(json.dumps([status, before == state()]))
"""


def test_main_called_from_a_script_runs_once_and_leaves_the_process_as_it_was(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GLIBC_TUNABLES", "XLA_FLAGS")
    }
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", "train", "--config=shape", "--workdir=run"],
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "once\n[1, true]\n"
    assert "--config=shape: no such file" in done.stderr


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"rpn-jax {rpn_jax.__version__}\n"


def test_a_user_whom_the_system_does_not_know_prepares_data(tmp_path):
    """As containers have them: a number without a name, and no home folder."""
    unknown = ["unshare", "--user", "--map-user=12345"]
    if shutil.which("unshare") is None or subprocess.run([*unknown, "true"]).returncode:
        pytest.skip("making up a user is not allowed here")
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    options = "num_train=1", "num_test=1", "image_size=32"
    command = [
        *(*unknown, sys.executable, "-m", "rpn_jax", "prepare", "--config=shapes"),
        *(f"--config.data.options.{option}" for option in options),
        f"--config.data.data_dir={tmp_path}",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
