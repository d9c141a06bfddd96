"""Trains torchvision's Faster R-CNN or Mask R-CNN beside a config of this project, and measures it.

    python scripts/peer_training_export.py --config=shapes_faster_rcnn --out=FOLDER
    PYTHON scripts/peer_training.py FOLDER --seed=0 --out=RESULT

The first line runs in this project's environment, the second by a PYTHON that has torch,
torchvision and pycocotools (tried with 2.13, 0.28 and 2.0.11), without this project and jax.

Like the config: images and their sides, backbone, anchors, channels and pooling of the heads,
regions an image that are trained on, steps and batch. All else is torchvision's default, and its
references' recipe (references/detection):

- SGD of momentum 0.9 and weight decay 1e-4; a rate of 0.02 for 16 images, in proportion to the
  batch; a linear warm-up from a thousandth, over 1000 steps but less than an epoch; a tenth after
  2/3 and another after 8/9 of the steps (the references: 16 and 22 of 26 epochs);
- epochs in random order, the last images that fill no batch left out; horizontal flips of half of
  the images; neither an average of weights nor clipping;
- images without objects are left out of training; ignore regions are background in it. Figures
  ignore both difficult objects and crowds, as this project's do.

The references also batch images of like shapes together, which is not done here. A ResNet is
trained from scratch with batch norms, a VGG-16 is frozen and needs --weights. All runs on the CPU,
with OMP_NUM_THREADS threads; the same seed and number of threads give the same result.

RESULT gets the figures, `figures.json`; what was found, `detections.json` in COCO's format; and the
weights, `model.pth`.
"""

import argparse
import contextlib
import io
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pycocotools.mask
import torch
import torchvision
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

RATE, RATE_BATCH = 0.02, 16
WARMUP_STEPS, WARMUP_FACTOR = 1000, 1e-3
KINDS = {"boxes": "bbox", "masks": "segm"}  # as pycocotools calls them


class Split:
    """The images of an exported split and their objects."""

    def __init__(self, folder: pathlib.Path, name: str):
        self._images = folder / name
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(folder / f"annotations/instances_{name}.json")
        self.ids = sorted(self.coco.imgs)

    def with_objects(self) -> list[int]:
        """Returns the ids of the images that have an object."""
        return [i for i in self.ids if self.coco.getAnnIds(i, iscrowd=False)]

    def image(self, image_id: int) -> torch.Tensor:
        """Returns the RGB pixels of an image, (3, H, W), from 0 to 1."""
        with Image.open(self._images / self.coco.imgs[image_id]["file_name"]) as image:
            pixels = np.array(image.convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255

    def target(self, image_id: int) -> dict[str, torch.Tensor]:
        """Returns the objects of an image, as torchvision's detectors take them."""
        objects = self.coco.loadAnns(self.coco.getAnnIds(image_id, iscrowd=False))
        boxes = torch.tensor([each["bbox"] for each in objects])
        boxes[:, 2:] += boxes[:, :2]
        target = {"boxes": boxes, "labels": torch.tensor([each["category_id"] for each in objects])}
        if "segmentation" in objects[0]:
            masks = [pycocotools.mask.decode(each["segmentation"]) for each in objects]
            target["masks"] = torch.from_numpy(np.stack(masks))
        return target


def mirrored(
    image: torch.Tensor, target: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns an image and its objects, mirrored from left to right."""
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    width = image.shape[2]
    target = {**target, "boxes": torch.stack([width - x2, y1, width - x1, y2], 1)}
    if "masks" in target:
        target["masks"] = target["masks"].flip(2)
    return image.flip(2), target


def make_backbone(settings: dict, weights: str | None) -> nn.Module:
    """Returns the config's backbone: a ResNet from scratch, or a frozen VGG-16 of `weights`."""
    name = settings["model.backbone"]
    if (name == "vgg16") != bool(weights):
        sys.exit(f"--weights: give those of a VGG-16, and no others; the backbone is {name}")
    network = torchvision.models.get_model(name, weights=None)
    if name == "vgg16":
        features = network.features[:-1].requires_grad_(False)  # to the last ReLU
        load_features(features, weights)
        features.out_channels = 512
        return features
    channels = [network.inplanes >> shift for shift in (3, 2, 1, 0)]  # of layer1 to layer4
    if settings["model.neck"] == "fpn":
        stages = {f"layer{i + 1}": str(i) for i in range(4)}
        return BackboneWithFPN(network, stages, channels, settings["model.fpn_channels"])
    layer = int((settings["model.output_stage"] or "c4")[1:]) - 1
    features = nn.Sequential(*list(network.children())[: 4 + layer])
    features.out_channels = channels[layer - 1]
    return features


def load_features(features: nn.Module, weights: str) -> None:
    """Sets the convolutions to those of torchvision's classifier in a file."""
    try:
        state = torch.load(weights, weights_only=True)
        start = "features."
        state = {name.removeprefix(start): state[name] for name in state if name.startswith(start)}
        features.load_state_dict(state)
    except Exception as error:  # of many kinds, as files can be wrong in many ways
        what = str(error).partition("\n")[0]
        sys.exit(f"--weights={weights}: is not a VGG-16 of torchvision's that can be read ({what})")


def make_detector(settings: dict, num_classes: int, weights: str | None = None) -> FasterRCNN:
    """Returns the detector; `num_classes` includes background."""
    backbone = make_backbone(settings, weights)
    width = backbone.out_channels
    if settings["rpn.channels"] != width:
        sys.exit(f"rpn.channels is {settings['rpn.channels']}; torchvision's RPN has {width} here")
    levels = ["0", "1", "2", "3"] if settings["model.neck"] == "fpn" else ["0"]

    def pooling(head: str) -> MultiScaleRoIAlign:
        size, ratio, canonical = (
            settings[f"{head}.pooling.{name}"]
            for name in ("size", "sampling_ratio", "canonical_size")
        )
        return MultiScaleRoIAlign(levels, size, ratio, canonical_scale=canonical)

    sizes = settings["rpn.anchors.sizes"]
    # Ratios are heights over widths in torchvision.
    ratios = tuple(1 / ratio for ratio in settings["rpn.anchors.aspect_ratios"])
    options = {
        "min_size": settings["data.shorter_side"],
        "max_size": settings["data.longer_side"],
        "rpn_anchor_generator": AnchorGenerator(tuple(map(tuple, sizes)), (ratios,) * len(sizes)),
        "box_roi_pool": pooling("box"),
        "box_head": TwoMLPHead(width * settings["box.pooling.size"] ** 2, settings["box.channels"]),
        "box_predictor": FastRCNNPredictor(settings["box.channels"], num_classes),
        "box_batch_size_per_image": settings["box.targets.batch_size_per_image"],
    }
    if settings["detector"] == "faster_rcnn":
        return FasterRCNN(backbone, **options)
    channels = settings["mask.channels"]
    layers = (channels,) * settings["mask.convolutions"]
    options |= {
        "mask_roi_pool": pooling("mask"),
        "mask_head": MaskRCNNHeads(width, layers, dilation=1),
        "mask_predictor": MaskRCNNPredictor(layers[-1] if layers else width, channels, num_classes),
    }
    return MaskRCNN(backbone, **options)


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Returns what the learning rate is multiplied by in a step, counted from 0."""
    warm = WARMUP_FACTOR + (1 - WARMUP_FACTOR) * min(step / warmup, 1)
    return warm * 0.1 ** ((step >= steps * 2 // 3) + (step >= steps * 8 // 9))


def batches(ids: Sequence[int], size: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields ids of images for ever: epochs in random order, without the rest of a batch."""
    while True:
        yield from draw.permutation(ids)[: len(ids) // size * size].reshape(-1, size)


def train(detector: FasterRCNN, split: Split, steps: int, batch: int, rate: float, seed: int):
    """Trains a detector, in place."""
    ids, draw = split.with_objects(), np.random.default_rng(seed)
    if len(ids) < batch:
        sys.exit(f"the training split has {len(ids)} images with objects, a batch {batch}")
    warmup = max(1, min(WARMUP_STEPS, len(ids) // batch - 1))
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, steps, warmup)
    )
    detector.train()
    endless = batches(ids, batch, draw)
    for step in progress(range(steps), "training", "step"):
        examples = [(split.image(i), split.target(i)) for i in next(endless).tolist()]
        examples = [mirrored(*each) if draw.random() < 0.5 else each for each in examples]
        loss = sum(detector(*map(list, zip(*examples, strict=True))).values())
        if not loss.isfinite():
            sys.exit(f"step {step + 1}: the loss is {loss.item()}; give a lower --learning_rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def detect(detector: FasterRCNN, split: Split) -> list[dict]:
    """Returns all detections in a split, as COCO's list of results."""
    detector.eval()
    results = []
    for image_id in progress(split.ids, "measuring", "image"):
        (found,) = detector([split.image(image_id)])
        boxes = found["boxes"].clone()
        boxes[:, 2:] -= boxes[:, :2]
        columns = [boxes.tolist(), found["labels"].tolist(), found["scores"].tolist()]
        masks = found["masks"][:, 0] > 0.5 if "masks" in found else [None] * len(boxes)
        for bbox, label, score, mask in zip(*columns, masks, strict=True):
            result = {"image_id": image_id, "category_id": label, "bbox": bbox, "score": score}
            if mask is not None:
                runs = pycocotools.mask.encode(np.asfortranarray(mask.numpy(), np.uint8))
                result["segmentation"] = {**runs, "counts": runs["counts"].decode("ascii")}
            results.append(result)
    return results


def average_precision(annotated: COCO, results: list[dict], kind: str) -> dict[str, list[float]]:
    """Returns AP, AP50 and AP75 in per cent, of all classes ("all") and of each by its name."""
    names = ["all", *(annotated.cats[i]["name"] for i in sorted(annotated.cats))]
    if not results:  # which pycocotools does not read
        return {name: [0.0, 0.0, 0.0] for name in names}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(annotated, annotated.loadRes(results), KINDS[kind])
        evaluation.evaluate()
        evaluation.accumulate()
    # Thresholds from 0.5 by 0.05, recalls, classes; -1 where a class has no objects.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    of_names = [precision, *np.split(precision, len(names) - 1, axis=2)]
    return {
        name: [_mean_percent(of_name[rows]) for rows in (slice(None), slice(0, 1), slice(5, 6))]
        for name, of_name in zip(names, of_names, strict=True)
    }


def _mean_percent(precision: np.ndarray) -> float:
    return 100 * float(np.mean(precision[precision > -1])) if (precision > -1).any() else np.nan


def table(figures: dict[str, dict[str, list[float]]]) -> str:
    """Returns the figures of each kind and class as lines with aligned columns."""
    rows = []
    for kind, of_names in figures.items():
        rows.append((kind, of_names["all"]))
        rows += [(f"  {name}", of) for name, of in of_names.items() if name != "all"]
    width = max(len(name) for name, _ in rows)
    head = " " * width + "".join(f"{name:>6}" for name in ("AP", "AP50", "AP75"))
    lines = (f"{name:{width}}" + "".join(f"{value:6.1f}" for value in of) for name, of in rows)
    return "\n".join([head, *lines])


def progress(items: Sequence, description: str, unit: str) -> Iterable:
    """Yields the items, with a bar, the rate and the time left on standard error.

    In a terminal the bar is drawn anew; a log gets a line every half minute.
    """
    in_terminal = sys.stderr.isatty()
    begun = drawn = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - drawn < (0.2 if in_terminal else 30) and done < len(items):
            continue
        drawn, seconds = now, (now - begun) / done
        minutes, left = divmod(round(seconds * (len(items) - done)), 60)
        line = (
            f"{description} |{'#' * (20 * done // len(items)):20}| {done}/{len(items)}, "
            f"{seconds:.3f} s/{unit}, {minutes}:{left:02} left"
        )
        end = "\r" if in_terminal and done < len(items) else "\n"
        print(line, end=end, file=sys.stderr, flush=True)


def main() -> None:
    """Trains, measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("folder", type=pathlib.Path, help="what peer_training_export.py wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning_rate", type=float, help="0.02 for 16 images by default")
    parser.add_argument("--steps", type=int, help="those of the config by default")
    parser.add_argument("--weights", metavar="FILE", help="torchvision's .pth of a VGG-16")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="RESULT", help="new")
    arguments = parser.parse_args()
    file = arguments.folder / "settings.json"
    if not file.is_file():
        sys.exit(f"{file}: is not there; peer_training_export.py writes it, last of all")
    settings = json.loads(file.read_text())
    steps, rate, batch = arguments.steps, arguments.learning_rate, settings["batch_size"]
    steps = settings["steps"] if steps is None else steps
    rate = RATE * batch / RATE_BATCH if rate is None else rate
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"--out={arguments.out}: {error.strerror}; give a new folder")
    if any(arguments.out.iterdir()):
        sys.exit(f"--out={arguments.out}: is not empty; give a new folder")

    torch.manual_seed(arguments.seed)
    test = Split(arguments.folder, settings["data.eval_split"])
    detector = make_detector(settings, 1 + len(test.coco.cats), arguments.weights)
    split = Split(arguments.folder, settings["data.train_split"])
    train(detector, split, steps, batch, rate, arguments.seed)
    torch.save(detector.state_dict(), arguments.out / "model.pth")
    results = detect(detector, test)
    (arguments.out / "detections.json").write_text(json.dumps(results))
    kinds = KINDS if settings["detector"] == "mask_rcnn" else ["boxes"]
    figures = {kind: average_precision(test.coco, results, kind) for kind in kinds}
    facts = {
        "config": settings["config"],
        "seed": arguments.seed,
        "learning_rate": rate,
        "steps": steps,
        "batch_size": batch,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    text = json.dumps({**facts, "AP, AP50, AP75 in per cent": figures}, indent=2)
    (arguments.out / "figures.json").write_text(text)
    print(table(figures))


if __name__ == "__main__":
    main()
