"""The report of `compile` as tables."""

from typing import Any

from rpn_jax.tables import format_table

_GIB = 2**30


# On the bounds, by platform.
_NOTES = {
    "tpu": (
        "interconnect: 2 (n-1)/n of the bytes of an all-reduce, (n-1)/n of others, over the links "
        "that",
        "  rings along each axis of the grid keep busy; without latency",
    ),
    "cuda": (
        "interconnect: 2 (n-1)/n of the bytes of an all-reduce, (n-1)/n of others, from a card to "
        "its host's;",
        "  between hosts, a card's share of them over its own network; the slower; without latency",
        "memory that a program can have: the three quarters of the card's that JAX takes by "
        "default; library",
        "  calls may ask for scratch memory beyond it, and what the L2 cache holds costs no HBM "
        "traffic",
    ),
}


def format_report(report: dict[str, Any]) -> str:
    """Returns the tables of a `compile_report`."""
    return "\n\n".join(
        [
            _title(report),
            _memory_table(report),
            _speed_table(report),
            _kernel_table(report),
            _collective_table(report),
            *([_largest(report)] if "largest_batch" in report else []),
        ]
    )


def _title(report: dict[str, Any]) -> str:
    height, width = report["canvas_hw"]
    return "\n".join(
        [
            f"{report['backbone']} in {report['dtype']} on {report['topology']}: "
            f"{report['batch_size']} images a step, {report['images_per_chip']} on each of "
            f"{report['chips']} chips",
            f"canvas {height} x {width} pixels, the largest of the config's; "
            f"{report['max_objects']} ground-truth slots",
            f"compiled in {report['compile_seconds']:.0f} s by jax {report['jax']}",
        ]
    )


def _memory_table(report: dict[str, Any]) -> str:
    hbm = report["hbm"]
    rows = [("memory of a chip (HBM)", "GiB")]
    rows += [
        (name, f"{hbm[key] / _GIB:.3f}")
        for name, key in (
            ("arguments: state and images", "arguments"),
            ("outputs: new state and metrics", "outputs"),
            ("of these in the place of arguments", "aliased"),
            ("temporaries", "temporaries"),
            ("program", "code"),
            ("needed", "needed"),
            ("a program can have", "usable"),
        )
    ]
    return format_table(rows)


def _speed_table(report: dict[str, Any]) -> str:
    chip = report["chip"]
    rows = [
        ("best possible step", "work of a chip", "its rate", "ms"),
        (
            "compute",
            f"{report['flops_per_image'] * report['images_per_chip'] / 1e9:,.1f} GFLOP",
            f"{chip['flops'] / 1e12:g} TFLOP/s",
            _ms(report["compute_seconds"]),
        ),
        (
            "HBM",
            f"{report['hbm_bytes_per_chip'] / 1e9:,.2f} GB",
            f"{chip['hbm_bandwidth'] / 1e9:g} GB/s",
            _ms(report["memory_seconds"]),
        ),
        (
            "interconnect",
            f"{sum(c['bytes'] * c['times'] for c in report['collectives']) / 1e6:,.2f} MB",
            chip["interconnect"],
            _ms(report["collective_seconds"]),
        ),
        (
            "step",
            f"{report['best_images_per_second_per_chip']:,.1f} images/s a chip",
            f"{report['best_images_per_second']:,.0f} images/s",
            _ms(report["best_step_seconds"]),
        ),
    ]
    counted = report["xla_bytes_accessed_per_chip"]
    counted_once = [body for body, times in report["loops"].items() if times == 1]
    return "\n".join(
        [
            format_table(rows),
            f"{report['flops_per_step'] / 1e9:,.1f} GFLOP a step, "
            f"{report['flops_per_image'] / 1e9:,.1f} an image",
            f"{report['flops_per_byte']:.0f} FLOP a byte, the chip's own balance "
            f"{report['chip_flops_per_byte']:.0f}: bound by {report['bound']}",
            "step: the longer of compute and HBM, then the sum over chips",
            f"compute: products of {chip['products']}",
            "HBM: operands and results of the program's instructions, without those that stay in "
            "the chip's",
            "  own memory" + (f"; with them XLA counts {counted / 1e9:,.2f} GB" if counted else ""),
            *_NOTES[chip["platform"]],
            *([f"{len(counted_once)} loops are counted once"] if counted_once else []),
            f"rates: {chip['source']}",
        ]
    )


def _kernel_table(report: dict[str, Any]) -> str:
    rows = [("kernels of a chip's step", "number", "GB", "% of the bytes")]
    total = sum(kernels["bytes"] for kernels in report["kernels"].values())
    rows += [
        (
            kind,
            f"{kernels['number']:,}",
            f"{kernels['bytes'] / 1e9:,.3f}",
            f"{100 * kernels['bytes'] / max(total, 1):.1f}",
        )
        for kind, kernels in report["kernels"].items()
    ]
    return format_table(rows)


def _collective_table(report: dict[str, Any]) -> str:
    alike: dict[tuple, list[dict[str, Any]]] = {}
    for collective in report["collectives"]:
        place = f"a loop of {collective['times']}" if collective["times"] > 1 else "program"
        key = f"{collective['kind']}: {collective['purpose']}", place, collective["times"]
        alike.setdefault(key, []).append(collective)

    def total(group, field):
        return sum(collective[field] for collective in group)

    rows = [("collectives", "in", "number", "arrays", "bytes", "of gradients", "ms a step")]
    rows += [
        (
            what,
            place,
            f"{times * len(group)}",
            f"{times * total(group, 'arrays')}",
            f"{times * total(group, 'bytes'):,}",
            f"{times * total(group, 'gradient_bytes'):,}",
            _ms(total(group, "seconds")),
        )
        for (what, place, times), group in alike.items()
    ]
    summed = sum(c["gradient_bytes"] * c["times"] for c in report["collectives"])
    with_gradients = sum(c["gradient_bytes"] > 0 for c in report["collectives"])
    trainable = report["trainable_bytes"]
    return "\n".join(
        [
            format_table(rows),
            f"trainable parameters: {trainable:,} bytes; gradients summed: {summed:,} bytes in "
            f"{with_gradients} collective{'s' if with_gradients != 1 else ''}"
            + ("" if summed == trainable else f" ({summed - trainable:+,})"),
        ]
    )


def _largest(report: dict[str, Any]) -> str:
    largest = report["largest_batch"]
    beyond = f"; {largest['too_large']} do not fit" if largest["too_large"] else ""
    return (
        f"largest batch that fits: {largest['per_chip']} images a chip, {largest['global']} in "
        f"all, in {largest['hbm_bytes'] / _GIB:.2f} GiB{beyond} (compiled for "
        f"{', '.join(map(str, largest['compiled']))})"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.3f}"
