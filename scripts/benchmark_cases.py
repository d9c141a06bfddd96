"""The cases of `benchmark.py` and their inputs, the same for both sides.

Needs only NumPy, because torchvision's side imports it too.
"""

import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

CPU, GPU = "cpu", "gpu"
MATMUL_SIZE = {CPU: 4096, GPU: 16_384}
PRECISIONS = {CPU: ("float32", "bfloat16"), GPU: ("float32", "tf32", "bfloat16")}


class Case(NamedTuple):
    """One case: `kind` names a function of each side, `options` are its arguments.

    Without `peer` our side alone runs it. An `alone` case is not timed in rounds: each side runs it
    once, in a new process, and returns its own figures.
    """

    name: str
    kind: str
    options: dict[str, Any]
    peer: bool = True
    alone: bool = False


class Field(NamedTuple):
    """The levels of anchors on an image."""

    hw: tuple[int, int]
    grids: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, ...], ...]

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """Pixels per cell as in torchvision: image by grid, rounded down."""
        height, width = self.hw
        return tuple((height // rows, width // columns) for rows, columns in self.grids)

    @property
    def num_anchors(self) -> int:
        """Number of anchors of all levels, with three aspect ratios for each size."""
        return sum(
            3 * rows * columns * len(sizes)
            for (rows, columns), sizes in zip(self.grids, self.sizes, strict=True)
        )


def one_level(height: int, width: int) -> Field:
    """The paper's nine anchors at stride 16."""
    return Field((height, width), ((-(-height // 16), -(-width // 16)),), ((128, 256, 512),))


def pyramid(height: int, width: int) -> Field:
    """Three anchors on each level of a feature pyramid."""
    grids = tuple((-(-height // s), -(-width // s)) for s in (4, 8, 16, 32, 64))
    return Field((height, width), grids, ((32,), (64,), (128,), (256,), (512,)))


LEVELS = {"one_level": one_level, "pyramid": pyramid}
# By the number of anchors: their levels, and the image.
FIELDS = {
    17_100: {"levels": "one_level", "hw": (600, 800)},
    120_015: {"levels": "pyramid", "hw": (600, 800)},
    268_569: {"levels": "pyramid", "hw": (800, 1344)},
}
# Boxes of a level that enter the NMS, and boxes that leave it.
COUNTS = {
    "one_level": {"test": (6000, 1000), "train": (12_000, 2000)},
    "pyramid": {"test": (1000, 1000), "train": (2000, 2000)},
}


class Network(NamedTuple):
    """A network of both sides: ours by a config and overrides, torchvision's by its name."""

    config: str
    overrides: tuple[str, ...]
    hw: tuple[int, int] = (600, 800)
    batches: tuple[int, ...] = (1, 2)


_SGD = (
    "optimizer.name=sgd",
    "optimizer.learning_rate=1e-4",
    "rpn.proposals.test.post_nms_top_n=1000",
)
NETWORKS = {
    "vgg16": Network("configs/voc07_vgg16.py", (*_SGD, "rpn.objectness=sigmoid")),
    "resnet50_c4": Network(
        "configs/voc07_resnet50.py",
        (*_SGD, "rpn.objectness=sigmoid", "rpn.channels=1024"),
    ),
    "resnet50_fpn": Network(
        "configs/voc07_resnet50.py",
        (
            *_SGD,
            "rpn.objectness=sigmoid",
            "rpn.channels=256",
            "model.neck=fpn",
            "rpn.anchors.sizes=((32.0,),(64.0,),(128.0,),(256.0,),(512.0,))",
            "rpn.proposals.test.pre_nms_top_n=1000",
        ),
    ),
    "quickstart": Network("configs/shapes.py", _SGD, (128, 128), (16,)),
}
# Detectors, on both sides with torchvision's numbers: of boxes, of regions, of channels.
_BOXES = (
    *_SGD,
    "rpn.objectness=sigmoid",
    "rpn.proposals.train.pre_nms_top_n=2000",
    "rpn.proposals.train.post_nms_top_n=2000",
    "rpn.proposals.test.pre_nms_top_n=1000",
    "box.pooling.kind=align",
    "box.pooling.sampling_ratio=2",
    "box.pooling.aligned=False",
    "box.targets.batch_size_per_image=512",
)
DETECTORS = {
    "faster_rcnn_vgg16": Network(
        "configs/voc07_faster_rcnn_vgg16.py", (*_BOXES, "box.dropout=0.0"), batches=(1,)
    ),
    "faster_rcnn_resnet50_c4": Network(
        "configs/voc0712_faster_rcnn_resnet50_c4.py",
        (*_BOXES, "rpn.channels=1024", "box.targets.batch_size_per_image=128"),
        batches=(1,),
    ),
    "faster_rcnn_resnet50_fpn": Network(
        "configs/coco_faster_rcnn_resnet50_fpn.py", _BOXES, batches=(1,)
    ),
    "mask_rcnn_resnet50_fpn": Network(
        "configs/coco_mask_rcnn_resnet50_fpn.py",
        (*_BOXES, "mask.pooling.sampling_ratio=2", "mask.pooling.aligned=False"),
        batches=(1,),
    ),
}
# The bias of a class that an inference case is to find everywhere.
LIKELY = 6.0
# Frozen stages: conv1 and conv2 in the paper.
FROZEN = {"tuning": 2, "whole": 0}


def cases(platform: str) -> list[Case]:
    """Returns all cases for a CPU or a GPU; the matrix products come first."""
    return [
        *(
            Case(
                f"matmul/{p}",
                "matmul",
                {"precision": p, "size": MATMUL_SIZE[platform]},
            )
            for p in PRECISIONS[platform]
        ),
        *part_cases(),
        *network_cases(platform),
        *cost_cases(platform),
        Case("input/600x800", "images", {"count": 64, "masks": 0}),
        Case("input/600x800/64_masks", "images", {"count": 16, "masks": 64}),
        Case("input/augmented", "augmented", {"count": 64}, peer=False, alone=True),
        *(
            Case(f"start/{name}", "start", {"network": name}, peer=False, alone=True)
            for name in ("quickstart", "vgg16")
        ),
        Case("loop/quickstart", "loop", {"steps": 100}, peer=False, alone=True),
    ]


def part_cases() -> list[Case]:
    """The parts around the convolutions, one by one, for one image and for a batch."""
    found = []
    for anchors, field in FIELDS.items():
        for batch in (1, 8):
            common = field | {"batch": batch}
            end = f"{anchors}/batch{batch}"
            found.append(Case(f"anchors/{end}", "anchors", common))
            for n in (8, 64):
                options = common | {"objects": n}
                found.append(Case(f"match/{anchors}/{n}_objects/batch{batch}", "match", options))
            found.append(Case(f"loss/{end}", "loss", common | {"objects": 8}))
            for name, (pre, post) in COUNTS[field["levels"]].items():
                options = common | {"pre": pre, "post": post}
                found.append(Case(f"proposals/{name}/{end}", "proposals", options))
    for crowd in ("scattered", "crowded"):
        for n in (1000, 2000, 6000, 12_000):
            found.append(Case(f"nms/{crowd}/{n}", "nms", {"boxes": n, "crowd": crowd}))
    return found + roi_cases()


def roi_cases() -> list[Case]:
    """Features of regions: of VGG-16's stage 5, and of a pyramid, for boxes and for masks."""
    found = []
    for levels, pool, regions, bins in (
        ("one_level", "pool", 128, 7),
        ("one_level", "align", 128, 7),
        ("pyramid", "align", 512, 7),
        ("pyramid", "align", 1000, 7),
        ("pyramid", "align", 128, 14),
    ):
        for gradient in (False, True):
            options = {"levels": levels, "hw": (600, 800), "pool": pool}
            options |= {"regions": regions, "bins": bins, "gradient": gradient}
            end = f"{regions}x{bins}x{bins}/{'both' if gradient else 'forward'}"
            found.append(Case(f"roi/{levels}/{pool}/{end}", "roi", options))
    return found


def network_cases(platform: str) -> list[Case]:
    """Whole steps: an image to updated parameters, an image to 1000 proposals."""
    found = []
    for name, network in (NETWORKS | DETECTORS).items():
        for precision in PRECISIONS[platform]:
            for batch in sorted({*network.batches, *((2, 8) if platform == GPU else ())}):
                common = {"network": name, "hw": network.hw, "batch": batch, "precision": precision}
                end = f"{precision}/batch{batch}"
                for stages in FROZEN if name != "quickstart" else ("whole",):
                    options = common | {"frozen": FROZEN[stages], "objects": 8}
                    found.append(Case(f"train/{name}/{stages}/{end}", "train", options))
                if name != "quickstart":
                    found.append(Case(f"infer/{name}/{end}", "infer", common))
    return found


def cost_cases(platform: str) -> list[Case]:
    """What of a train step is no convolution, and the memory that the step takes."""
    found = []
    for name, network in NETWORKS.items():
        stages = "tuning" if name != "quickstart" else "whole"
        batch = network.batches[0]
        common = {
            "network": name,
            "hw": network.hw,
            "batch": batch,
            "precision": "float32",
            "frozen": FROZEN[stages],
            "objects": 8,
        }
        end = f"{name}/{stages}/float32/batch{batch}"
        for part in ("targets_and_loss", "optimizer"):
            options = common | {"part": part}
            found.append(Case(f"rest/{part}/{end}", "rest", options, peer=False))
        for precision in PRECISIONS[platform][:: len(PRECISIONS[platform]) - 1]:
            options = common | {"precision": precision}
            memory = f"memory/{name}/{stages}/{precision}/batch{batch}"
            found.append(Case(memory, "memory", options, alone=True))
    for name, network in DETECTORS.items():
        common = {"network": name, "hw": network.hw, "batch": 1, "precision": "float32"}
        for objects in (8, 64) if "mask" in name else (8,):
            options = common | {"frozen": FROZEN["tuning"], "objects": objects}
            memory = f"memory/{name}/tuning/float32/{objects}_objects"
            found.append(Case(memory, "memory", options, alone=True))
    return found


# With --quick: one case of each kind and network, on these.
TINY = {"hw": (96, 128), "boxes": 100, "size": 64, "count": 4, "steps": 4, "batch": 2}


def quick(chosen: list[Case]) -> list[Case]:
    """Returns the cases that try everything out."""
    found = {}
    for case in chosen:
        options = {name: TINY.get(name, value) for name, value in case.options.items()}
        kind = case.kind, options.get("network"), options.get("levels"), options.get("part")
        found.setdefault(kind, case._replace(options=options))
    return list(found.values())


def choose(known: list[Case], pattern: str) -> list[Case]:
    """Returns the cases whose names have the pattern, and the matrix products beside them."""
    chosen = [case for case in known if re.search(pattern, case.name)]
    precisions = {c.options["precision"] for c in chosen if c.kind in ("train", "infer")}
    return [
        case
        for case in known
        if case in chosen or (case.kind == "matmul" and case.options["precision"] in precisions)
    ]


def with_images(case: Case, images: pathlib.Path | None, folder: pathlib.Path) -> Case:
    """Returns the case with the folder of JPEGs to load, written if there is none."""
    options = dict(case.options)
    count = options.pop("count")
    if images is None:
        images = folder / case.name
        images.mkdir(parents=True)
        write_jpegs(images, count)
    return case._replace(options={"folder": str(images), **options})


# Inputs, the same on both sides: NumPy alone, drawn from a seed.


def draw_objects(count: int, hw: tuple[int, int], batch: int) -> np.ndarray:
    """Returns boxes (batch, count, 4) of 24 to 360 pixels inside the image."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(24), np.log(0.6 * min(hw)), (batch, count, 2)))
    corners = rng.uniform(0, 1, (batch, count, 2)) * (np.array(hw)[::-1] - sides)
    return np.concatenate([corners, corners + sides], axis=2).astype(np.float32)


def draw_masks(boxes: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Returns a bitmap (n, height, width) for each box (n, 4), the ellipse that fills it."""
    rows, columns = np.arange(hw[0])[:, None] + 0.5, np.arange(hw[1]) + 0.5
    masks = np.empty((len(boxes), *hw), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        along_x = (2 * columns - x1 - x2) / (x2 - x1)
        along_y = (2 * rows - y1 - y2) / (y2 - y1)
        mask[...] = along_x**2 + along_y**2 < 1
    return masks


def draw_outputs(field: Field, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits (batch, A) and deltas (batch, A, 4) as of a head that knows nothing yet."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(batch, field.num_anchors))
    deltas = rng.normal(scale=0.2, size=(batch, field.num_anchors, 4))
    return logits.astype(np.float32), deltas.astype(np.float32)


def draw_candidates(count: int, crowd: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes (count, 4) and scores for NMS.

    "scattered" ones lie all over an image of 600 x 800, few of them close together. "crowded" ones
    lie round 40 objects, as those of a trained network do, and most are suppressed.
    """
    rng = np.random.default_rng(2)
    if crowd == "scattered":
        boxes = draw_objects(count, (600, 800), 1)[0]
    else:
        objects = draw_objects(40, (600, 800), 1)[0]
        boxes = objects[rng.integers(0, len(objects), count)]
        sides = (boxes[:, 2:] - boxes[:, :2])[:, [0, 1, 0, 1]]
        boxes = boxes + (rng.normal(scale=0.12, size=boxes.shape) * sides)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 4)
    return boxes.astype(np.float32), rng.normal(size=count).astype(np.float32)


def draw_regions(levels: str, hw: tuple[int, int], count: int) -> tuple[list, np.ndarray]:
    """Returns feature maps (rows, columns, channels), finest first, and boxes (count, 4)."""
    rng = np.random.default_rng(5)
    grids = LEVELS[levels](*hw).grids[:4]
    channels = 256 if levels == "pyramid" else 512
    maps = [rng.normal(size=(*grid, channels)).astype(np.float32) for grid in grids]
    return maps, draw_objects(count, hw, 1)[0]


def draw_images(batch: int, hw: tuple[int, int]) -> np.ndarray:
    """Returns images (batch, height, width, 3) of noise."""
    return np.random.default_rng(3).integers(0, 256, (batch, *hw, 3), np.uint8)


def write_jpegs(folder: pathlib.Path, count: int) -> None:
    """Writes JPEGs of 375 x 500 pixels, smooth with a little noise, of about 60 kB each."""
    import cv2

    rng = np.random.default_rng(4)
    for index in range(count):
        image = cv2.resize(rng.uniform(0, 255, (24, 32, 3)), (500, 375))
        image = np.clip(image + rng.normal(scale=8, size=image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index:04d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
