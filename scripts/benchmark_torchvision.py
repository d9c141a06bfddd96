"""torchvision's side of `benchmark.py`, which starts it: one function for each kind of case."""

import concurrent.futures
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable

import benchmark_cases
import numpy as np
import PIL
import torch
import torchvision
from benchmark_cases import Field
from benchmark_sides import SLOW_CALL_SECONDS, Timed, measure_memory, one_core, serve
from benchmark_torchvision_models import (
    COMPILE,
    DEVICE,
    LAYOUTS,
    Detector,
    Network,
    make_rpn,
)
from PIL import Image
from pycocotools.mask import decode, encode
from torch import nn
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.models.detection.image_list import ImageList
from torchvision.transforms.v2 import functional as transforms

# Pillow's decoder, the same libjpeg-turbo: that of a CUDA wheel does not load with a CPU's torch.
HAS_DECODER = hasattr(torch.ops.image, "decode_image")


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _timed(function, work=None) -> Timed:
    """Times a function without gradients, unless it enables them itself."""

    def call():
        with torch.no_grad():
            result = function()
        _wait()
        return result

    return Timed(call, work(call()) if work else {})


def _tensors(*arrays):
    return [torch.from_numpy(array).to(DEVICE) for array in arrays]


def matmul(precision: str, size: int) -> Timed:
    """The product of two square matrices."""
    _allow_tf32(precision)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    matrix = torch.ones(size, size, dtype=dtype, device=DEVICE)
    corner = matrix[: size // 8, : size // 8]
    if (seconds := 8**3 * _seconds(lambda: corner @ corner)) > 100:
        raise RuntimeError(f"a product would take {seconds:.0f} s: the CPU has no {precision}")
    return _timed(lambda: matrix @ matrix)


def _allow_tf32(precision: str) -> None:
    """Sets whether products and convolutions use TF32; no effect on CPUs."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _anchors(field: Field, batch: int):
    """A function that makes the anchors of each image, as the network's forward does."""
    images = ImageList(torch.zeros(batch, 3, *field.hw, device=DEVICE), [field.hw] * batch)
    features = [torch.zeros(batch, 1, *grid, device=DEVICE) for grid in field.grids]
    generator = make_rpn(field).anchor_generator
    return lambda: generator(images, features)


def anchors(levels: str, hw, batch: int) -> Timed:
    """The anchors of all levels, for each image."""
    field = benchmark_cases.LEVELS[levels](*hw)
    return _timed(_anchors(field, batch), work=lambda found: {"anchors": len(found[0])})


def _targets(field: Field, objects: int, batch: int):
    boxes = _tensors(benchmark_cases.draw_objects(objects, field.hw, batch))[0]
    return [{"boxes": of_image} for of_image in boxes]


def match(levels: str, hw, objects: int, batch: int) -> Timed:
    """Anchors and objects to labels, a sample of them, and deltas."""
    field = benchmark_cases.LEVELS[levels](*hw)
    rpn, boxes = make_rpn(field), _anchors(field, batch)()
    targets = _targets(field, objects, batch)

    def assign():
        labels, matched = rpn.assign_targets_to_anchors(boxes, targets)
        return labels, rpn.box_coder.encode(matched, boxes), rpn.fg_bg_sampler(labels)

    def work(found):
        labels = torch.stack(found[0])
        return {"positives": int((labels == 1).sum()), "negatives": int((labels == 0).sum())}

    return _timed(assign, work)


def loss(levels: str, hw, objects: int, batch: int) -> Timed:
    """The loss of a sample of anchors, and its gradient with respect to both heads' outputs."""
    field = benchmark_cases.LEVELS[levels](*hw)
    rpn, boxes = make_rpn(field), _anchors(field, batch)()
    labels, matched = rpn.assign_targets_to_anchors(boxes, _targets(field, objects, batch))
    deltas_to_learn = rpn.box_coder.encode(matched, boxes)
    sample = rpn.fg_bg_sampler(labels)
    rpn.fg_bg_sampler = lambda _: sample  # is timed with the matching
    logits, deltas = _tensors(*benchmark_cases.draw_outputs(field, batch))
    logits, deltas = logits.requires_grad_(), deltas.reshape(-1, 4).requires_grad_()

    @torch.enable_grad()
    def call():
        parts = rpn.compute_loss(logits, deltas, labels, deltas_to_learn)
        return torch.autograd.grad(sum(parts), (logits, deltas))

    return _timed(call)


def proposals(levels: str, hw, pre: int, post: int, batch: int) -> Timed:
    """The heads' outputs to boxes: decode, take the best, clip, NMS."""
    field = benchmark_cases.LEVELS[levels](*hw)
    rpn, boxes = make_rpn(field, pre=pre, post=post), _anchors(field, batch)()
    logits, deltas = _tensors(*benchmark_cases.draw_outputs(field, batch))
    counts = [
        3 * len(sizes) * rows * columns
        for sizes, (rows, columns) in zip(field.sizes, field.grids, strict=True)
    ]

    def call():
        decoded = rpn.box_coder.decode(deltas.reshape(-1, 4), boxes).view(batch, -1, 4)
        return rpn.filter_proposals(decoded, logits, [field.hw] * batch, counts)

    return _timed(call, lambda found: {"boxes": sum(map(len, found[0]))})


def nms(boxes: int, crowd: str) -> Timed:
    """Non-maximum suppression of one image's boxes, all that survive."""
    candidates = _tensors(*benchmark_cases.draw_candidates(boxes, crowd))
    return _timed(lambda: torchvision.ops.nms(*candidates, 0.7), lambda kept: {"boxes": len(kept)})


def roi(levels: str, hw, pool: str, regions: int, bins: int, gradient: bool) -> Timed:
    """Features of regions of one image, and the gradient of the maps."""
    maps, boxes = benchmark_cases.draw_regions(levels, hw, regions)
    maps = [x.permute(2, 0, 1)[None].contiguous().requires_grad_() for x in _tensors(*maps)]
    boxes = _tensors(boxes)
    if levels == "pyramid":
        names = [str(index) for index in range(len(maps))]
        pooler = torchvision.ops.MultiScaleRoIAlign(names, bins, 2)
        pooled = lambda: pooler(dict(zip(names, maps, strict=True)), boxes, [hw])  # noqa: E731
    else:
        kind = torchvision.ops.RoIPool if pool == "pool" else torchvision.ops.RoIAlign
        pooler = kind(bins, 1 / 16, *(() if pool == "pool" else (2,)))
        pooled = lambda: pooler(maps[0], boxes)  # noqa: E731
    d_pooled = torch.ones_like(pooled())

    def call():
        with torch.set_grad_enabled(gradient):
            features = pooled()
            return torch.autograd.grad(features, maps, d_pooled) if gradient else features

    return _timed(call)


def _faster(make: Callable[[str], Timed]) -> Timed:
    """The case in the faster memory layout, by the better of two warm calls."""
    seconds = {}
    for layout in LAYOUTS:
        timed = make(layout)
        seconds[layout] = _seconds(timed.call)
        if seconds[layout] < SLOW_CALL_SECONDS:
            seconds[layout] = min(_seconds(timed.call) for _ in range(2))
        del timed
    layout = min(seconds, key=seconds.get)
    return make(layout)._replace(setting=layout)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def train(network: str, hw, batch: int, precision: str, frozen: int, objects: int) -> Timed:
    """A step of SGD, from an image as bytes on the host."""
    return _faster(lambda layout: _train(layout, network, hw, batch, precision, frozen, objects))


def _train(layout, network, hw, batch, precision, frozen, objects) -> Timed:
    _allow_tf32(precision)
    is_detector = network in benchmark_cases.DETECTORS
    model = (Detector if is_detector else Network)(network, layout, frozen).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-4, momentum=0.9, weight_decay=5e-4, fused=True)
    images = benchmark_cases.draw_images(batch, hw)
    boxes = torch.from_numpy(benchmark_cases.draw_objects(objects, hw, batch))

    targets = [{"boxes": of_image} for of_image in boxes]
    if is_detector:
        for target in targets:
            target["labels"] = torch.ones(objects, dtype=torch.int64)
            if network.startswith("mask"):
                masks = benchmark_cases.draw_masks(target["boxes"].numpy(), hw)
                target["masks"] = torch.from_numpy(masks)

    def loss_of(targets):
        if is_detector:
            return sum(model(images, precision, targets).values())
        anchors, logits, deltas, _ = model(images, precision)
        labels, matched = model.rpn.assign_targets_to_anchors(anchors, targets)
        to_learn = model.rpn.box_coder.encode(matched, anchors)
        return sum(model.rpn.compute_loss(logits, deltas, labels, to_learn))

    def call():
        on_device = [{name: x.to(DEVICE) for name, x in target.items()} for target in targets]
        loss_of(on_device).backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait()

    return Timed(call, {"trained": sum(p.numel() for p in trained)})


def infer(network: str, hw, batch: int, precision: str) -> Timed:
    """From an image as bytes on the host to boxes there."""
    return _faster(lambda layout: _infer(layout, network, hw, batch, precision))


def _infer(layout, network, hw, batch, precision) -> Timed:
    _allow_tf32(precision)
    if network in benchmark_cases.DETECTORS:
        return _detect(layout, network, hw, batch, precision)
    model = Network(network, layout).eval()
    images = benchmark_cases.draw_images(batch, hw)

    @torch.inference_mode()
    def call():
        anchors, logits, deltas, counts = model(images, precision)
        boxes = model.rpn.box_coder.decode(deltas, anchors).view(batch, -1, 4)
        boxes, scores = model.rpn.filter_proposals(boxes, logits, [tuple(hw)] * batch, counts)
        return [of_image.cpu() for of_image in (*boxes, *scores)]

    return Timed(call, {"weights": sum(p.numel() for p in model.parameters())})


def _detect(layout, network, hw, batch, precision) -> Timed:
    model = Detector(network, layout).eval()
    images = benchmark_cases.draw_images(batch, hw)

    @torch.inference_mode()
    def call():
        found = model(images, precision)
        return [{name: x.cpu() for name, x in of_image.items()} for of_image in found]

    found = sum(len(of_image["boxes"]) for of_image in call())
    weights = sum(p.numel() for p in model.parameters())
    return Timed(call, {"weights": weights, "found": found})


def memory(**options) -> dict[str, float]:
    """Peak memory of three train steps, in the layout that needs less."""
    context, found = multiprocessing.get_context("spawn"), []
    for layout in LAYOUTS:
        with concurrent.futures.ProcessPoolExecutor(1, context) as process:
            found.append(process.submit(_memory, layout, options).result())
    return min(found, key=lambda figures: next(iter(figures.values())))


def _memory(layout: str, options) -> dict[str, float]:
    of_device = torch.cuda.max_memory_allocated if DEVICE.type == "cuda" else lambda: None
    return measure_memory(lambda: _train(layout, **options), of_device)


def images(folder: str, masks: int) -> Timed:
    """Read, decode, resize, flip and pad, one image at a time, on one core.

    Masks are decoded as by the reference scripts' dataset, and resized as by the detector.
    """
    files = sorted(pathlib.Path(folder).glob("*.jpg"))
    flips = np.random.default_rng(0).uniform(size=len(files)) < 0.5
    coded = [_coded_masks(path, masks) for path in files]

    def load(path, flip, coded):
        if HAS_DECODER:
            image = decode_image(read_file(str(path)), ImageReadMode.RGB)
        else:
            image = transforms.pil_to_tensor(Image.open(path).convert("RGB"))
        height, width = image.shape[1:]
        scale = min(600 / min(height, width), 1000 / max(height, width))
        hw = [round(height * scale), round(width * scale)]
        image = transforms.resize(image, hw)
        bitmaps = torch.from_numpy(np.stack([decode(code) for code in coded])) if coded else None
        if flip:
            image = transforms.horizontal_flip(image)
            bitmaps = bitmaps.flip(-1) if coded else None
        if coded:
            bitmaps = nn.functional.interpolate(bitmaps[:, None].float(), hw)[:, 0].byte()
        _, height, width = image.shape
        canvas = torch.zeros(3, -(-height // 16) * 16, -(-width // 16) * 16, dtype=torch.uint8)
        canvas[:, :height, :width] = image
        return canvas, bitmaps

    def call():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with one_core():
            for path, flip, of_image in zip(files, flips, coded, strict=True):
                load(path, flip, of_image)
        torch.set_num_threads(threads)

    return Timed(call, {"images": len(files)})


def _coded_masks(path: pathlib.Path, count: int) -> list:
    if not count:
        return []
    hw = Image.open(path).size[::-1]
    bitmaps = benchmark_cases.draw_masks(benchmark_cases.draw_objects(count, hw, 1)[0], hw)
    return [encode(np.asfortranarray(bitmap)) for bitmap in bitmaps]


KINDS = {
    "matmul": matmul,
    "anchors": anchors,
    "match": match,
    "loss": loss,
    "proposals": proposals,
    "nms": nms,
    "roi": roi,
    "train": train,
    "infer": infer,
    "memory": memory,
    "images": images,
}


def main() -> None:
    """Serves."""
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    torch.backends.cudnn.benchmark = True
    facts = {
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "torch.compile": COMPILE,
        "decoder": "torchvision.io" if HAS_DECODER else f"Pillow {PIL.__version__}",
    }
    serve(facts, KINDS)


if __name__ == "__main__":
    main()
