import importlib.util
import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training.small import small_config

from rpn_jax.compiling import step_report
from rpn_jax.compiling.chips import CHIPS, parse_topology
from rpn_jax.compiling.hlo import ArrayShape, Collective
from rpn_jax.compiling.largest_batch import DoesNotFitError, largest_that_fits
from rpn_jax.compiling.tables import format_report
from rpn_jax.errors import UserError

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
FROZEN = "--config.model.frozen_stages=1", "--config.batch_size=8"


def collective(*sizes, kind="all-reduce", source="jit(_fun)/shard_map/psum"):
    arrays = tuple(ArrayShape(32, size, in_hbm=True) for size in sizes)
    return Collective(kind, "name", "main", arrays, source, times=1, asynchronous=False)


def shapes(*sizes):
    return [jax.ShapeDtypeStruct((size,), np.float32) for size in sizes]


def test_gradients_are_found_by_size():
    both = [collective(1), collective(64, 64, 9), collective(64, 1, 1)]
    # The parameters of 64 are in the collective with most arrays; the third has another's.
    assert step_report.split_gradients(both, shapes(9, 64, 64)) == [0, 4 * 137, 0]
    assert step_report.split_gradients(both, shapes(9, 64, 64, 64)) == [0, 4 * 137, 4 * 64]
    assert step_report.split_gradients([], shapes(9)) == []


@pytest.mark.parametrize(
    ("what", "gradient_bytes", "purpose"),
    [
        (collective(64, 9), 4 * 73, "gradients"),
        (collective(64, 1), 4 * 64, "gradients, metrics"),
        (collective(1, 1), 0, "metrics"),
        (collective(64, source="jit(f)/shard_map/jvp(Net)/c2/norm/psum"), 0, "batch statistics"),
        (collective(64, kind="all-gather", source="jit(f)/shard_map/conv"), 0, "conv"),
        (collective(64, source=""), 0, "unknown"),
    ],
)
def test_purpose(what, gradient_bytes, purpose):
    assert step_report._purpose(what, gradient_bytes) == purpose


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "config.batch_size=1: the 4 chips of v5e:2x2 cannot share it evenly; give "
         "--config.batch_size=4 or another multiple of 4"),
        (("--config.batch_size=6",), "give --config.batch_size=4 "),
        (("--config.batch_size=12", "--config.accumulation=2"),
         "evenly in 2 micro-batches each; give --config.batch_size=8 or another multiple of 8"),
    ],
)  # fmt: skip
def test_an_uneven_batch(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        step_report.images_per_chip(small_config(*overrides), parse_topology("v5e:2x2"))


def fits(bytes_of, available):
    """Returns `bytes_of`, which raises beyond what is available as the compiler does."""

    def needed(count):
        if bytes_of(count) > available:
            raise DoesNotFitError("out of memory")
        return bytes_of(count)

    return needed


@settings(max_examples=50, deadline=None)
@given(
    first=st.integers(1, 4),
    fixed=st.integers(0, 1000),
    each=st.integers(50, 400),
    extra=st.integers(0, 500),
)
def test_largest_that_fits_on_a_line(first, fixed, each, extra):
    """The first line has `extra` in each image, and is put right by the second."""

    def bytes_of(count):
        return fixed + extra + each * count

    needed = fits(bytes_of, 8000)
    best, used, tried = largest_that_fits(
        needed, (first, needed(first)), fixed=fixed, available=8000
    )
    assert used == bytes_of(best) <= 8000 < bytes_of(best + 1)
    assert tried[0] == first
    assert best in tried
    assert len(tried) <= 3


def test_largest_that_fits_where_memory_is_not_linear():
    # 6 need more than the line says, by which 10 should fit; then between 5 and 7.
    needed = fits(lambda count: 100 * count if count <= 5 else 2000, 1000)
    assert largest_that_fits(needed, (1, 100), fixed=0, available=1000) == (
        5,
        500,
        [1, 10, 5, 7, 6],
    )


def test_largest_that_fits_where_the_compiler_saves_memory_close_to_the_limit():
    needed = fits(lambda count: 100 * count if count <= 7 else 640, 1000)
    best, _, tried = largest_that_fits(needed, (1, 150), fixed=0, available=1000)
    assert best == max(tried) < 30


def test_largest_that_fits_goes_by_what_the_compiler_says_is_missing():
    def needed(count):
        gib = 4 * count - 3
        if gib > 18:
            raise DoesNotFitError(f"Used {gib}.00G of 18.00G hbm")
        return gib * 2**30

    best, _, tried = largest_that_fits(needed, (1, 2**30), fixed=0, available=18 * 2**30)
    assert best == 5
    assert tried == [1, 18, 5]  # 18 would need 69 GiB, hence 4 for each image


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("the total memory required for HLO temporaries (48.00G) exceeds available HBM (15.75G).",
         48 * 2**30),
        ("Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm.", 17.5 * 2**30),
        ("out of memory", float("inf")),
    ],
)  # fmt: skip
def test_bytes_that_the_compiler_would_need(message, needed):
    assert DoesNotFitError(message).needed == needed


def test_largest_that_fits_is_a_multiple():
    needed = fits(lambda count: 10 * count if count <= 8 else 999, 110)
    best, _, tried = largest_that_fits(needed, (4, 40), fixed=0, available=110, multiple=4)
    assert best == 8
    assert all(count % 4 == 0 for count in tried)


@pytest.fixture(scope="module")
def report():
    """Of the small network, compiled for four devices that are here in place of four chips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: name)
        patch.setattr(
            step_report, "described_devices", lambda topology: jax.devices()[: topology.chips]
        )
        return step_report.compile_report(small_config(*FROZEN), "v5e:2x2")


def test_report_of_the_batch(report):
    assert (report["chips"], report["batch_size"], report["images_per_chip"]) == (4, 8, 2)
    assert report["canvas_hw"] == [48, 64]
    assert report["flops_per_step"] == pytest.approx(8 * report["flops_per_image"])
    assert json.loads(json.dumps(report)) == report


def test_gradients_are_summed_once_and_frozen_parameters_never(report):
    trainable = report["trainable_bytes"]
    assert sum(c["gradient_bytes"] for c in report["collectives"]) == trainable
    assert {c["kind"] for c in report["collectives"]} == {"all-reduce"}
    # The rest are the seven metrics, numbers of 4 bytes.
    assert sum(c["other_bytes"] for c in report["collectives"]) == 7 * 4


def test_memory_takes_donation_into_account(report):
    hbm = report["hbm"]
    assert hbm["aliased"] > report["trainable_bytes"]
    parts = hbm["arguments"] + hbm["outputs"] + hbm["temporaries"] + hbm["code"]
    assert hbm["needed"] == parts - hbm["aliased"]
    assert hbm["usable"] == CHIPS["v5e"].usable_bytes


def test_bounds(report):
    chip = CHIPS["v5e"]
    flops = report["flops_per_step"] / 4
    rate = chip.rates.default.flops
    assert report["compute_seconds"] == pytest.approx(flops / rate)
    assert report["memory_seconds"] == pytest.approx(
        report["hbm_bytes_per_chip"] / chip.hbm_bandwidth
    )
    intensity = flops / report["hbm_bytes_per_chip"]
    assert (report["bound"] == "compute") == (intensity >= rate / chip.hbm_bandwidth)
    longer = max(report["compute_seconds"], report["memory_seconds"])
    assert report["best_step_seconds"] == pytest.approx(longer + report["collective_seconds"])
    assert report["best_images_per_second"] == pytest.approx(8 / report["best_step_seconds"])


def test_tables(report):
    largest = {"per_chip": 9, "global": 36, "hbm_bytes": 2**33, "too_large": 10,
               "compiled": [2, 10, 9]}  # fmt: skip
    text = format_report({**report, "largest_batch": largest})
    assert text.startswith("resnet18 in float32 on v5e:2x2: 8 images a step, 2 on each of 4 chips")
    trainable = f"{report['trainable_bytes']:,} bytes"
    assert f"trainable parameters: {trainable}; gradients summed: {trainable} in" in text
    assert f"bound by {report['bound']}" in text
    assert "compute: products of one bfloat16 pass, summed in float32" in text
    for kind in report["kernels"]:
        assert f"\n{kind}  " in text
    assert "largest batch that fits: 9 images a chip, 36 in all, in 8.00 GiB; 10 do not" in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_batch_that_does_not_fit(monkeypatch):
    def too_large(self, per_chip):
        raise DoesNotFitError("Used 17.30G of 15.75G hbm")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(step_report, "described_devices", lambda t: jax.devices()[: t.chips])
    monkeypatch.setattr(step_report.StepCompiler, "measure", too_large)
    with pytest.raises(UserError, match="config.batch_size=8: 2 images a chip do not fit on v5e"):
        step_report.compile_report(small_config("--config.batch_size=8"), "v5e:2x2")


def test_a_program_that_the_compiler_makes_but_the_card_cannot_hold(capsys):
    """As the GPU's does: three quarters of an H100's memory are 59.32 GiB."""

    def analysis(compiled, per_chip, seconds):
        memory = {"temporaries": per_chip * 2**30, "aliased": 0}
        return step_report.Measured(per_chip, seconds, memory, 1.0, None, 1, {}, {}, [])

    step = object.__new__(step_report.StepCompiler)
    step._topology = parse_topology("h100:1")
    step.state = step._key = step._numbers = None
    step._batch = lambda per_chip: None
    step._update = SimpleNamespace(lower=lambda *_: SimpleNamespace(compile=lambda: None))
    step._analysis = analysis
    assert step.measure(59).needed == 59 * 2**30
    with pytest.raises(DoesNotFitError, match=r"used 60.00G of 59.32G") as raised:
        step.measure(60)
    assert raised.value.needed == 60 * 2**30


@pytest.mark.parametrize(
    ("precision", "dtype", "words"),
    [
        (None, "bfloat16", "bfloat16"),
        (None, "float32", "TF32"),
        ("float32", "float32", "float32, without tensor cores"),
    ],
)
def test_the_rate_of_products_is_that_of_their_precision(precision, dtype, words):
    config = small_config(f"--config.model.dtype={dtype}")
    with jax.default_matmul_precision(precision):
        rate = step_report.product_rate(config, parse_topology("h100:1"))
    assert rate.words.startswith(words)


@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu, the compiler for TPUs, is not installed")
def test_a_real_tpu_program(monkeypatch):
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    report = step_report.compile_report(small_config(*FROZEN), "v5e:2x2")
    (summed,) = report["collectives"]
    assert summed["kind"] == "all-reduce"
    assert summed["gradient_bytes"] == report["trainable_bytes"]
    assert summed["other_bytes"] == 7 * 4
    assert 0 < report["hbm_bytes_per_chip"] < report["xla_bytes_accessed_per_chip"]
