"""A program as libtpu writes it: an array with S(1) in its layout is in the chip's own memory."""

import pytest

from rpn_jax.compiling.hlo import parse_program
from rpn_jax.compiling.kernels import kernels_by_kind

TEXT = """\
HloModule jit__fun, is_scheduled=true, num_partitions=4

%fused.1 (p.0: f32[8,128], p.1: bf16[128,256]) -> f32[8,256] {
  %p.0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %p.1 = bf16[128,256]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %convolution = f32[8,256]{1,0:T(8,128)S(1)} convolution(%p.0, %p.1), dim_labels=bf_io->bf
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%body (state: (s32[], f32[64])) -> (s32[], f32[64]) {
  %state = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %count = s32[]{:T(128)S(6)} get-tuple-element(%state), index=0
  %mean = f32[64]{0:T(128)} get-tuple-element(%state), index=1
  %all-reduce.2 = f32[64]{0:T(128)} all-reduce(%mean), channel_id=2, to_apply=%add, \
metadata={op_name="jit(_fun)/shard_map/while/body/jvp(Net)/norm/BatchNorm_0/psum"}
  ROOT %next = (s32[]{:T(128)}, f32[64]{0:T(128)}) tuple(%count, %all-reduce.2)
}

%condition (state.1: (s32[], f32[64])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(5)
  %state.1 = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%count.1, %constant.5), direction=LT
}

ENTRY %main.9_spmd (x: f32[8,128], w: bf16[512,256], m: (s32[], f32[64])) -> (f32[8,256], f32[]) {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %w = bf16[512,256]{1,0:T(8,128)(2,1)} parameter(1)
  %m = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(2)
  %slice-start = ((bf16[512,256]{1,0:T(8,128)(2,1)}), bf16[128,256]{1,0:T(8,128)(2,1)S(1)}, \
u32[]{:S(2)}) slice-start(%w), slice={[0:128], [0:256]}
  %while.1 = (s32[]{:T(128)}, f32[64]{0:T(128)}) while(%m), condition=%condition, body=%body
  %slice-done = bf16[128,256]{1,0:T(8,128)(2,1)S(1)} slice-done(%slice-start)
  %fusion.1 = f32[8,256]{1,0:T(8,128)S(1)} fusion(%x, %slice-done), kind=kOutput, calls=%fused.1
  %loss = f32[]{:T(128)S(1)} custom-call(%fusion.1), custom_call_target="Loss"
  %all-reduce.1 = (f32[8,256]{1,0:T(8,128)S(1)}, /*index=1*/f32[]{:T(128)}) \
all-reduce(%fusion.1, /*index=1*/%loss), channel_id=1, replica_groups={{0,1,2,3}}, \
to_apply=%add, metadata={op_name="jit(_fun)/shard_map/psum" stack_frame_id=7}
  %gather-start = (f32[8,128]{1,0:T(8,128)}, f32[32,128]{1,0:T(8,128)S(1)}) \
all-gather-start(%x), channel_id=3, dimensions={0}
  %gather-done = f32[32,128]{1,0:T(8,128)S(1)} all-gather-done(%gather-start)
  %grad = f32[8,256]{1,0:T(8,128)S(1)} get-tuple-element(%all-reduce.1), index=0
  %mean.1 = f32[]{:T(128)} get-tuple-element(%all-reduce.1), index=1
  %copy.1 = f32[8,256]{1,0:T(8,128)} copy(%grad)
  ROOT %tuple.1 = (f32[8,256]{1,0:T(8,128)}, f32[]{:T(128)}) tuple(%copy.1, %mean.1)
}
"""


@pytest.fixture(scope="module")
def program():
    return parse_program(TEXT)


def test_computations(program):
    assert list(program.computations) == ["fused.1", "add", "body", "condition", "main.9_spmd"]
    assert program.entry == "main.9_spmd"
    fusion = program.computations["main.9_spmd"][6]
    assert (fusion.name, fusion.opcode, fusion.operands) == (
        "fusion.1",
        "fusion",
        ("x", "slice-done"),
    )


def test_loops(program):
    assert program.loops() == {"body": 5}
    unknown = parse_program(TEXT.replace("constant(5)", "parameter(1)"))
    assert unknown.loops() == {"body": 1}
    beside = 'body=%body, backend_config={"known_trip_count":{"n":"7"},"dynamic_variable":"a"}'
    written = TEXT.replace("constant(5)", "parameter(1)").replace("body=%body", beside)
    assert parse_program(written).loops() == {"body": 7}


def test_collectives(program):
    by_name = {collective.name: collective for collective in program.collectives()}
    assert set(by_name) == {"all-reduce.1", "all-reduce.2", "gather-start"}

    merged = by_name["all-reduce.1"]
    assert merged.kind == "all-reduce"
    assert merged.computation == "main.9_spmd"
    assert [array.size for array in merged.arrays] == [8 * 256, 1]
    assert merged.bytes == 4 * (8 * 256 + 1)
    assert (merged.times, merged.asynchronous) == (1, False)
    assert merged.source == "jit(_fun)/shard_map/psum"

    statistics = by_name["all-reduce.2"]
    assert (statistics.computation, statistics.times, statistics.bytes) == ("body", 5, 4 * 64)

    gather = by_name["gather-start"]
    assert (gather.kind, gather.asynchronous) == ("all-gather", True)
    assert [array.size for array in gather.arrays] == [32 * 128]  # what comes out, not what goes in


SUM_TEXT = """\
HloModule jit_step, is_scheduled=true

%wrapped (p: f32[64], q: f32[9]) -> f32[73] {
  %p = f32[64]{0} parameter(0)
  %q = f32[9]{0} parameter(1)
  ROOT %concatenate.1 = f32[73]{0} concatenate(%p, %q), dimensions={0}
}

ENTRY %main (x: f32[64], y: f32[9]) -> f32[73] {
  %x = f32[64]{0} parameter(0)
  %y = f32[9]{0} parameter(1)
  %joined = f32[73]{0} fusion(%x, %y), kind=kLoop, calls=%wrapped
  %all-reduce-start = ((f32[73]{0}), f32[73]{0}) all-reduce-start(%joined), channel_id=1
  ROOT %all-reduce-done = f32[73]{0} all-reduce-done(%all-reduce-start)
}
"""


def test_collectives_of_a_gpus_program():
    """Arrays are joined for one sum, which starts with a pair: what goes in and what comes out."""
    (summed,) = parse_program(SUM_TEXT).collectives()
    assert [array.size for array in summed.arrays] == [64, 9]
    assert (summed.kind, summed.bytes, summed.asynchronous) == ("all-reduce", 4 * 73, True)


def test_hbm_bytes(program):
    slice_read = 2 * 128 * 256  # bfloat16, read from HBM to on-chip memory
    fusion = 4 * 8 * 128  # x; the rest is on the chip
    sums = 4  # the mean loss, written
    gather = 4 * 32 * 128  # x, as large as what arrives
    copy = 4 * 8 * 256  # the result, written
    statistics = 5 * 2 * 4 * 64  # in each step of the loop, read and written
    condition = 5 * (4 + 4 + 1)  # two numbers read, one written
    total = slice_read + fusion + sums + gather + copy + statistics + condition
    assert program.hbm_bytes() == total


def test_kernels_by_kind(program):
    kernels = kernels_by_kind(program)
    assert {kind: of_kind.number for kind, of_kind in kernels.items()} == {
        "convolution": 1,  # the fusion
        "copy or transpose": 1,
        "element by element": 6,  # the loop's comparison 5 times, the slice that arrives
        "exchange": 7,  # a sum in each of 5 turns, the sum of gradients, and what is gathered
        "Loss": 1,  # a call that is not known
    }
    assert sum(of_kind.bytes for of_kind in kernels.values()) == program.hbm_bytes()


GPU_TEXT = """\
HloModule jit_step, is_scheduled=true

%fused_computation (p: f32[4,8], i: s32[4]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %i = s32[4]{0} parameter(1)
  %inner = f32[4,8]{1,0} fusion(%p), kind=kLoop, calls=%inner_computation
  ROOT %scatter = f32[4,8]{1,0} scatter(%inner, %i, %p), to_apply=%add
}

%inner_computation (q: f32[4,8]) -> f32[4,8] {
  %q = f32[4,8]{1,0} parameter(0)
  ROOT %negative = f32[4,8]{1,0} negate(%q)
}

ENTRY %main (x: f32[4,8], i: s32[4]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %i.1 = s32[4]{0} parameter(1)
  %conv = (f32[4,8]{1,0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$convForward"
  %y = f32[4,8]{1,0} get-tuple-element(%conv), index=0
  %gemm = (f32[4,8]{1,0}, s8[16]{0}) custom-call(%y, %x), custom_call_target="__cublas$lt$matmul"
  %z = f32[4,8]{1,0} get-tuple-element(%gemm), index=0
  %keys = (f32[4,8]{1,0}, u8[16]{0}) custom-call(%z), custom_call_target="__cub$DeviceRadixSort"
  %sorted = f32[4,8]{1,0} get-tuple-element(%keys), index=0
  ROOT %fusion = f32[4,8]{1,0} fusion(%sorted, %i.1), kind=kInput, calls=%fused_computation
}
"""


def test_kernels_of_a_gpus_program():
    """The calls of NVIDIA's libraries are known by name; their scratch memory is no traffic."""
    kernels = kernels_by_kind(parse_program(GPU_TEXT))
    array = 4 * 4 * 8
    assert kernels == {
        "matrix product": (1, 3 * array),
        "scatter": (1, 2 * array + 4 * 4),
        "convolution": (1, 2 * array),
        "sort": (1, 2 * array),
    }
