"""What XLA's GPU compiler is told of a card that is not here.

The figures are those that XLA reads from a card's driver, here for the cards of `chips.CHIPS`. They
choose tilings and which operations are fused; nothing that a program computes depends on them.
"""

from typing import NamedTuple


class Card(NamedTuple):
    """One card as its driver describes it; sizes are in bytes."""

    name: str
    capability: tuple[int, int]
    cores: int
    fpus: int  # of a core, for float32
    threads: int  # most of a core
    shared_memory: int  # of a core
    shared_memory_optin: int  # most of a block, if it asks for it
    bandwidth: int  # of the memory, bytes per second
    l2_bytes: int
    clock_ghz: float
    memory: int


_HOPPER = {
    "capability": (9, 0),
    "cores": 132,
    "fpus": 128,
    "threads": 2048,
    "shared_memory": 228 * 1024,
    "shared_memory_optin": 227 * 1024,
    "l2_bytes": 50 * 2**20,
    "clock_ghz": 1.98,
}
CARDS = {
    "a100": Card(
        name="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        cores=108,
        fpus=64,
        threads=2048,
        shared_memory=164 * 1024,
        shared_memory_optin=163 * 1024,
        bandwidth=2_039_040_000_000,
        l2_bytes=40 * 2**20,
        clock_ghz=1.41,
        memory=85_100_068_864,
    ),
    "l4": Card(
        name="NVIDIA L4",
        capability=(8, 9),
        cores=58,
        fpus=128,
        threads=1536,
        shared_memory=100 * 1024,
        shared_memory_optin=99 * 1024,
        bandwidth=300_096_000_000,
        l2_bytes=48 * 2**20,
        clock_ghz=2.04,
        memory=int(22.03 * 2**30),
    ),
    "h100": Card(
        name="NVIDIA H100 80GB HBM3",
        bandwidth=3_352_320_000_000,
        memory=84_929_347_584,
        **_HOPPER,
    ),
    "h200": Card(
        name="NVIDIA H200",
        bandwidth=4_800_000_000_000,
        memory=151_397_597_184,
        **_HOPPER,
    ),
    "b200": Card(
        name="NVIDIA B200",
        capability=(10, 0),
        cores=148,
        fpus=128,
        threads=2048,
        shared_memory=228 * 1024,
        shared_memory_optin=227 * 1024,
        bandwidth=7_672_320_000_000,
        l2_bytes=132_644_864,
        clock_ghz=1.965,
        memory=191_514_411_008,
    ),
}
# Common to all of them, with the versions of cuDNN and CUDA that jaxlib 0.11 is built for.
_TEXT = """\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {card.shared_memory}
  threads_per_core_limit: {card.threads}
  core_count: {card.cores}
  fpus_per_core: {card.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {card.bandwidth}
  l2_cache_size: {card.l2_bytes}
  clock_rate_ghz: {card.clock_ghz}
  device_memory_size: {card.memory}
  shared_memory_per_block_optin: {card.shared_memory_optin}
  cuda_compute_capability {{ major: {card.capability[0]} minor: {card.capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 19 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{card.name}"
"""


def target_text(card: Card) -> str:
    """Returns the description of a card, a `stream_executor.GpuTargetConfigProto` as text."""
    return _TEXT.format(card=card)
