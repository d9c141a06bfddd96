# ruff: noqa: E402
"""Our side of `benchmark.py`: one function for each kind of case."""

from rpn_jax.__main__ import set_cpu_flags
from rpn_jax.console import use_large_pages
from rpn_jax.detectors.rpn import Look
from rpn_jax.training.predict_steps import make_predict_step

use_large_pages()  # both as the command line does, before JAX is imported
set_cpu_flags()

import functools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import benchmark_cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_cases import DETECTORS, NETWORKS, Field
from benchmark_sides import Timed, measure_memory, one_core, serve
from PIL import Image

from rpn_jax.compiling.flops import step_flops
from rpn_jax.data.datasets import Record, prepare_dataset
from rpn_jax.data.loader import train_batches
from rpn_jax.data.masks import encode
from rpn_jax.detectors.proposals import propose
from rpn_jax.detectors.targets import assign_targets
from rpn_jax.evaluation.masks import paste_masks
from rpn_jax.models.rcnn import trainable_mask
from rpn_jax.ops.anchors import cell_anchors, grid_anchors
from rpn_jax.ops.losses import rpn_loss
from rpn_jax.ops.matching import Label
from rpn_jax.ops.nms import nms
from rpn_jax.ops.roi import pyramid_roi_align, roi_align, roi_pool
from rpn_jax.runs import devices
from rpn_jax.runs.config import random_key
from rpn_jax.runs.config_files import load_config
from rpn_jax.runs.fingerprint import cpu_model
from rpn_jax.runs.metrics import read_metrics
from rpn_jax.training import loop
from rpn_jax.training.begin import training_augmentations
from rpn_jax.training.build import (
    build_detector,
    build_train_step,
    frozen_paths,
    initial_variables,
    new_state,
)
from rpn_jax.training.optimizer import build_optimizer
from rpn_jax.training.state import partition
from rpn_jax.training.step import image_keys
from rpn_jax.typing import GroundTruth, Images

ROOT = pathlib.Path(__file__).resolve().parents[1]
RATIOS = (2.0, 1.0, 0.5)  # widths over heights, in the order in which torchvision has them
# JAX's names of precisions on a GPU; a CPU ignores them.
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": None}


def _timed(function, *arguments, work=None) -> Timed:
    """The compiled function, with its arguments on the device."""
    compiled, arguments = jax.jit(function), jax.device_put(arguments)
    result = jax.block_until_ready(compiled(*arguments))
    return Timed(lambda: jax.block_until_ready(compiled(*arguments)), work(result) if work else {})


def matmul(precision: str, size: int) -> Timed:
    """The product of two square matrices."""
    jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    matrix = jnp.ones((size, size), dtype)
    return _timed(jnp.dot, matrix, matrix)._replace(flops=lambda: 2.0 * size**3)


def _cells(field: Field) -> list[np.ndarray]:
    return [cell_anchors(sizes, RATIOS, rounding="torchvision") for sizes in field.sizes]


def _anchors(field: Field, cells) -> list:
    return [
        grid_anchors(c, grid, stride, offset=0)
        for c, grid, stride in zip(cells, field.grids, field.strides, strict=True)
    ]


def anchors(levels: str, hw, batch: int) -> Timed:
    """The anchors of all levels; images of a batch share them."""
    field = benchmark_cases.LEVELS[levels](*hw)
    return _timed(
        lambda cells: jnp.concatenate(_anchors(field, cells)),
        _cells(field),
        work=lambda boxes: {"anchors": len(boxes)},
    )


def _ground_truth(field: Field, objects: int, batch: int) -> GroundTruth:
    boxes = benchmark_cases.draw_objects(objects, field.hw, batch)
    present = np.ones(boxes.shape[:2], bool)
    return GroundTruth(boxes, present, ~present)


def _assign(field: Field):
    def assign(keys, anchors, ground_truth):
        def one_image(key, ground_truth):
            image_hw = jnp.array(field.hw, jnp.float32)
            return assign_targets(key, anchors, ground_truth, image_hw, drop_straddling=False)

        return jax.vmap(one_image)(keys, ground_truth)

    return assign


def match(levels: str, hw, objects: int, batch: int) -> Timed:
    """Anchors and objects to labels, a sample of them, and deltas."""
    field = benchmark_cases.LEVELS[levels](*hw)
    return _timed(
        _assign(field),
        jax.random.split(jax.random.key(0), batch),
        jnp.concatenate(_anchors(field, _cells(field))),
        _ground_truth(field, objects, batch),
        work=lambda targets: {
            "positives": int((targets.matches.labels == Label.POSITIVE).sum()),
            "negatives": int((targets.matches.labels == Label.NEGATIVE).sum()),
        },
    )


def loss(levels: str, hw, objects: int, batch: int) -> Timed:
    """The loss of a sample of anchors, and its gradient with respect to both heads' outputs."""
    field = benchmark_cases.LEVELS[levels](*hw)
    targets = jax.jit(_assign(field))(
        jax.random.split(jax.random.key(0), batch),
        jnp.concatenate(_anchors(field, _cells(field))),
        _ground_truth(field, objects, batch),
    )

    def mean_loss(outputs, targets):
        of_image = functools.partial(rpn_loss, normalizer="sampled", balance=1.0)
        return jax.vmap(of_image)(*outputs, targets)[0].mean()

    return _timed(
        jax.value_and_grad(mean_loss), benchmark_cases.draw_outputs(field, batch), targets
    )


def proposals(levels: str, hw, pre: int, post: int, batch: int) -> Timed:
    """The heads' outputs to boxes: decode, take the best, clip, NMS."""
    field = benchmark_cases.LEVELS[levels](*hw)
    counts = [len(a) for a in _anchors(field, _cells(field))]
    splits = np.cumsum(counts)[:-1].tolist()
    logits, deltas = benchmark_cases.draw_outputs(field, batch)

    def propose_batch(logits, deltas, anchors):
        def one_image(logits, deltas):
            return propose(
                logits,
                deltas,
                anchors,
                jnp.array(field.hw, jnp.float32),
                pre_nms_top_n=pre,
                post_nms_top_n=post,
                keep_padding=True,
            )

        return jax.vmap(one_image)(logits, deltas)

    return _timed(
        propose_batch,
        np.split(logits, splits, axis=1),
        np.split(deltas, splits, axis=1),
        _anchors(field, _cells(field)),
        work=lambda found: {"boxes": int(found.valid.sum())},
    )


def nms_alone(boxes: int, crowd: str) -> Timed:
    """Non-maximum suppression of one image's boxes, without a limit."""
    return _timed(
        functools.partial(nms, iou_threshold=0.7, max_outputs=boxes),
        *benchmark_cases.draw_candidates(boxes, crowd),
        work=lambda found: {"boxes": int(found[1].sum())},
    )


def roi(levels: str, hw, pool: str, regions: int, bins: int, gradient: bool) -> Timed:
    """Features of regions of one image, and the gradient of the maps."""
    maps, boxes = benchmark_cases.draw_regions(levels, hw, regions)
    pool_one_level = roi_pool if pool == "pool" else roi_align

    def pooled(maps, boxes):
        if levels == "pyramid":
            return pyramid_roi_align(maps, boxes, size=bins, strides=(4, 8, 16, 32))
        return pool_one_level(maps[0], boxes, size=bins, scale=1 / 16)

    def with_gradient(maps, boxes, d_pooled):
        features, d_maps = jax.vjp(lambda maps: pooled(maps, boxes), maps)
        return features, d_maps(d_pooled)

    if not gradient:
        return _timed(pooled, maps, boxes)
    return _timed(with_gradient, maps, boxes, np.ones((regions, bins, bins, maps[0].shape[2]), "f"))


def _config(network: str, precision: str = "float32", *overrides: str):
    known = NETWORKS | DETECTORS
    fields = (
        *known[network].overrides,
        f"model.dtype={'bfloat16' if precision == 'bfloat16' else 'float32'}",
        *overrides,
    )
    jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])
    return load_config(str(ROOT / known[network].config), [f"--config.{field}" for field in fields])


def _state(config, network, optimizer):
    state = new_state(config, network, optimizer)
    mask = trainable_mask(state.params, frozen_paths(config))
    return devices.replicate(state), mask


def _host_batch(config, batch: int, hw, objects: int) -> Images:
    boxes = benchmark_cases.draw_objects(objects, hw, batch)
    present = np.ones(boxes.shape[:2], bool)
    labels = present.astype(np.int32) if "box" in config else None
    masks = None
    if "mask" in config:
        size = config.mask.cut_size
        mask = 255 * benchmark_cases.draw_masks(np.array([[0, 0, size, size]]), (size, size))
        masks = np.tile(mask, (*boxes.shape[:2], 1, 1))
    return Images(
        images=benchmark_cases.draw_images(batch, hw),
        image_hw=np.tile(np.float32([hw]), (batch, 1)),
        image_index=np.arange(batch, dtype=np.int32),
        ground_truth=GroundTruth(boxes, present, ~present, labels, masks),
    )


def _count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _flops(step, state, batch, *whole):
    """Returns a function that counts those of a step as TPUs run it."""
    return functools.partial(step_flops, step, state, batch, *whole, platform="tpu")


def train(network: str, hw, batch: int, precision: str, frozen: int, objects: int) -> Timed:
    """The step of `train`, with its image as bytes on the host."""
    config = _config(network, precision, f"batch_size={batch}", f"model.frozen_stages={frozen}")
    detector = build_detector(config)
    schedule, optimizer = build_optimizer(config)
    state, mask = _state(config, detector.network, optimizer)
    step = build_train_step(config, detector, optimizer, schedule)
    update = devices.compiled_first(devices.parallel_update(step))
    on_host = _host_batch(config, batch, hw, objects)
    work = {"trained": _count(partition(state.params, mask)[0])}
    key = devices.replicate(random_key(config))
    flops = _flops(step, state, on_host, key)

    def call():
        nonlocal state
        state, metrics = update(state, devices.shard(on_host), key, None)
        jax.block_until_ready((state, metrics))

    return Timed(call, work, flops)


def infer(network: str, hw, batch: int, precision: str) -> Timed:
    """The step of `propose` or `detect`, from an image as bytes on the host to boxes there.

    A detector finds as many objects as it may, of one class: its first class is the likeliest
    everywhere. Its masks are pasted into the image.
    """
    config = _config(network, precision)
    detector = build_detector(config)
    variables = initial_variables(config, detector.network, None)
    if "box" in config:
        scores = variables["params"]["box"]["scores"]
        scores["bias"] = jnp.asarray(scores["bias"]).at[1].set(benchmark_cases.LIKELY)
    variables = devices.replicate(variables)
    step = make_predict_step(detector)
    propose_on_devices = devices.parallel_map(step)
    on_host = benchmark_cases.draw_images(batch, hw), np.tile(np.float32([hw]), (batch, 1))

    def call():
        found = devices.unshard(propose_on_devices(variables, devices.shard(on_host)))
        if "mask" in config:
            both = zip(found.masks, found.boxes, strict=True)
            found = [paste_masks(masks, boxes, *hw) for masks, boxes in both]
        return found

    work = {"weights": _count(variables["params"])}
    if "box" in config:
        found = devices.unshard(propose_on_devices(variables, devices.shard(on_host)))
        work["found"] = int(found.valid.sum())
    return Timed(call, work, _flops(step, variables, on_host))


def rest(
    network: str, hw, batch: int, precision: str, frozen: int, objects: int, part: str
) -> Timed:
    """What of the train step is no convolution: by itself, with nothing fused into it."""
    config = _config(network, precision, f"batch_size={batch}", f"model.frozen_stages={frozen}")
    detector = build_detector(config)
    _, optimizer = build_optimizer(config)
    state, mask = _state(config, detector.network, optimizer)
    if part == "optimizer":
        trained, _ = partition(state.params, mask)
        gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e-3), trained)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def update(trained, opt_state, gradient):
            updates, opt_state = optimizer.update(gradient, opt_state, trained)
            return optax.apply_updates(trained, updates), opt_state, optax.global_norm(gradient)

        carried = jax.tree.map(jnp.copy, (trained, state.opt_state))

        def call():
            nonlocal carried
            *carried, norm = jax.block_until_ready(update(*carried, gradient))

        return Timed(call)

    levels = jax.eval_shape(lambda: detector.anchors(*hw))
    rng = np.random.default_rng(1)
    logits, deltas = (
        tuple(rng.normal(size=(batch, len(level), *end)).astype(np.float32) for level in levels)
        for end in ((), (4,))
    )

    def loss_of(outputs, step, batch):
        keys = image_keys(random_key(config), step, 0, len(batch.images))
        look = Look(*outputs, detector.anchors(*hw), {})
        losses = detector.losses_of(look, keys, batch)
        return losses.of_image.mean(), jax.tree.map(jnp.mean, losses.parts)

    gradient_of = jax.grad(loss_of, has_aux=True)
    return _timed(
        gradient_of, (logits, deltas), state.step, _host_batch(config, batch, hw, objects)
    )


def memory(**options) -> dict[str, float]:
    """The most memory of three train steps."""

    def of_device():
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    return measure_memory(lambda: train(**options), of_device)


class JpegFolder:
    """JPEGs with a box each, or with objects that have masks, as the loader reads a dataset."""

    proposals = None  # no given ones
    class_names = ("object",)

    def __init__(self, folder: pathlib.Path, masks: int = 0):
        self._files = sorted(folder.glob("*.jpg"))
        sizes = np.array([Image.open(path).size for path in self._files])
        self.widths, self.heights = sizes.T
        self.num_objects = np.full(len(sizes), masks or 1, np.int64)
        self._objects = [self._of_image(int(h), int(w), masks) for w, h in sizes]

    @staticmethod
    def _of_image(height: int, width: int, masks: int):
        if not masks:
            return np.float32([[0, 0, width, height]]), None
        boxes = benchmark_cases.draw_objects(masks, (height, width), 1)[0]
        bitmaps = benchmark_cases.draw_masks(boxes, (height, width))
        return boxes, [encode(bitmap) for bitmap in bitmaps]

    def __len__(self):
        return len(self._files)

    def __getitem__(self, index):
        path = self._files[index]
        height, width = int(self.heights[index]), int(self.widths[index])
        boxes, masks = self._objects[index]
        one = np.ones(len(boxes), np.int64)
        return Record(
            *(path.read_bytes(), path.name, index, height, width),
            *(boxes, one, one == 0, boxes[:, 2], 1, masks),
        )


def images(folder: str, masks: int) -> Timed:
    """The loader of `train`, one image at a time, on one core."""
    dataset = JpegFolder(pathlib.Path(folder), masks)

    def call():
        with one_core():
            for _ in batches_of(dataset, 1, num_threads=1, mask_size=112 if masks else None):
                pass

    return Timed(call, {"images": len(dataset)})


# What a training may show of an image, each beside what it shows by default: mirrored, or not.
AUGMENTED = {
    "large-scale jitter": ("data.jitter.scales=(0.1,2.0)", "data.jitter.canvas=(600,800)"),
    "crop": ("data.augmentations=('crop',)",),
    "color": ("data.augmentations=('color',)",),
}


def augmented(folder: str) -> dict[str, float]:
    """The loader on one core, of eight objects an image: what augmentations leave of its speed."""
    dataset = JpegFolder(pathlib.Path(folder), masks=8)  # of which only the boxes are loaded
    seconds = {"mirrored": [], **{name: [] for name in AUGMENTED}}
    for _ in range(7):
        for name, of_name in seconds.items():
            begun = time.perf_counter()
            with one_core():
                for _ in batches_of(dataset, 1, num_threads=1, fields=AUGMENTED.get(name, ())):
                    pass
            of_name.append(time.perf_counter() - begun)
    mirrored, *others = map(statistics.median, seconds.values())
    ratios = {name: mirrored / other for name, other in zip(AUGMENTED, others, strict=True)}
    return {
        "mirrored, images/s": len(dataset) / mirrored,
        **{f"{name}, of that": ratio for name, ratio in ratios.items()},
    }


def batches_of(
    dataset: JpegFolder,
    batch: int,
    num_threads: int | None,
    mask_size: int | None = None,
    fields: Sequence[str] = (),
):
    """Returns the loader of `train` over a dataset, once, by default for 600 x 800 pixels."""
    flags = [f"--config.{field}" for field in (f"batch_size={batch}", *fields)]
    config = load_config(str(ROOT / "configs/voc07_vgg16.py"), flags)
    plan, scales = loop.training_plan(config, dataset)
    return train_batches(
        dataset,
        plan,
        scales,
        augmentations=training_augmentations(config, dataset),
        num_steps=len(dataset) // batch,
        num_threads=num_threads,
        mask_size=mask_size,
    )


def _prepared(network: str, folder: pathlib.Path, *overrides: str) -> list[str]:
    """Prepares shapes for a config; returns the flags for it."""
    fields = ("data.dataset=shapes", "data.train_split=train", f"data.data_dir={folder}/data",
              "evaluation.every=0", *overrides)  # fmt: skip
    flags = [f"--config={NETWORKS[network].config}", *(f"--config.{field}" for field in fields)]
    config = load_config(str(ROOT / NETWORKS[network].config), flags[1:])
    prepare_dataset("shapes", data_dir=folder / "data", **config.data.options)
    return flags


def start(network: str) -> dict[str, float]:
    """From the launch of `train` to its first step: with nothing compiled yet, and once more."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        flags = _prepared(network, folder, "steps=1", "log_every=1")
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
        seconds = {}
        for which in ("first", "second"):
            workdir = folder / which
            command = [sys.executable, "-m", "rpn_jax", "train", *flags, f"--workdir={workdir}"]
            begun = time.perf_counter()
            with subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
            ) as process:
                while process.poll() is None and not read_metrics(workdir / "metrics.jsonl"):
                    time.sleep(0.02)
                seconds[f"{which} start, s"] = time.perf_counter() - begun
            if process.returncode:
                raise RuntimeError(f"train ended with status {process.returncode}")
    return seconds


def training(steps: int) -> dict[str, float]:
    """What the loop of the quick start says of itself, once its first steps are over."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        flags = _prepared("quickstart", folder, f"steps={steps}", f"checkpoint.every={steps}")
        config = load_config(str(ROOT / NETWORKS["quickstart"].config), flags[1:])
        loop.train(config, folder / "run")
        rows = read_metrics(folder / "run" / "metrics.jsonl")
    settled = rows[1:] or rows
    return {
        "waiting for data, %": statistics.mean(100 * row["train/input_wait"] for row in settled),
        "images/s": statistics.mean(row["train/images_per_second"] for row in settled),
    }


KINDS = {
    "matmul": matmul,
    "anchors": anchors,
    "match": match,
    "loss": loss,
    "proposals": proposals,
    "nms": nms_alone,
    "roi": roi,
    "train": train,
    "infer": infer,
    "rest": rest,
    "memory": memory,
    "images": images,
    "augmented": augmented,
    "start": start,
    "loop": training,
}


def main() -> None:
    """Serves."""
    device = jax.local_devices()[0]
    facts = {
        "platform": device.platform,
        "device": device.device_kind,
        "processor": cpu_model(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
    }
    serve(facts, KINDS)


if __name__ == "__main__":
    main()
