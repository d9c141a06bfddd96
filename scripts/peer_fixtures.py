"""Writes tests/fixtures: the results of torch and torchvision for tests/helpers/peer_cases.py.

    PYTHON scripts/peer_fixtures.py [NAME …]

PYTHON needs torch and torchvision (2.13 and 0.28 wrote the project's files). The tests compare this
project with the files. NAME is a key of `WRITERS`; without one all files are written anew.
"""

import pathlib
import sys

import numpy as np
import torch
import torchvision
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    fastrcnn_loss,
    maskrcnn_loss,
    paste_masks_in_image,
    project_masks_on_boxes,
)
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.v2 import functional

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import peer_cases  # noqa: E402
from seeded_weights import seeded_array, seeded_image  # noqa: E402

FIXTURES = peer_cases.FIXTURES


def write_state_dicts():
    """Tensors of several types, views of one storage and a scalar, in both of torch's formats."""
    storage = torch.arange(24, dtype=torch.float32)
    tensors = {
        "kernel": storage[:12].reshape(3, 4).T,
        "shared": storage[12:].reshape(2, 3, 2),
        "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
        "brain": torch.tensor([1.5, 3.0], dtype=torch.bfloat16),
        "double": torch.tensor([1e-12], dtype=torch.float64),
        "num_batches_tracked": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.tensor([[1.0]])),
    }
    torch.save(tensors, FIXTURES / "state_dict.pth")
    torch.save({"model": tensors, "epoch": 3}, FIXTURES / "checkpoint.pth")
    torch.save(tensors, FIXTURES / "state_dict_legacy.pth", _use_new_zipfile_serialization=False)


def seed_weights(model):
    """Sets a model to evaluation, with the weights of tests/helpers/seeded_weights.py."""
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(seeded_array(key, tuple(tensor.shape))))
    return model.eval()


@torch.no_grad()
def write_features():
    """The last features, at stride 16, of each backbone; some of their channels."""
    arrays = {}
    for name in peer_cases.BACKBONES:
        features = last_features(name)
        for height, width in peer_cases.FEATURES_HW:
            image = torch.from_numpy(seeded_image(height, width)).permute(2, 0, 1)
            channels = features(image[None])[0, :: peer_cases.FEATURES_EVERY]
            arrays[f"{name}/{height}x{width}"] = channels.permute(1, 2, 0)
    write_answers("features", arrays)


def last_features(name):
    """The layers of a classifier that a region proposal network uses."""
    if name == "resnet50_dilated":
        dilation = [False, False, True]
        model = seed_weights(torchvision.models.resnet50(replace_stride_with_dilation=dilation))
        return torch.nn.Sequential(*list(model.children())[:8])  # to layer4
    model = seed_weights(torchvision.models.get_model(name))
    if name == "densenet121":  # the third block, and the norm and ReLU that follow it
        layers = [*model.features[:9], model.features.transition3.norm, torch.nn.ReLU()]
        return torch.nn.Sequential(*layers)
    if hasattr(model, "features"):
        return model.features[:-1]  # the last convolution and its ReLU, without the last pool
    return torch.nn.Sequential(*list(model.children())[:7])  # to layer3


@torch.no_grad()
def write_fpn():
    """The levels p2 to p6 of the feature pyramid of maps drawn from a seed."""
    fpn = torchvision.ops.FeaturePyramidNetwork(
        list(peer_cases.FPN_CHANNELS), 16, LastLevelMaxPool()
    )
    seed_weights(fpn)
    arrays = {}
    for name in peer_cases.FPN_GRIDS:
        features = tensors(*peer_cases.stage_features(name))
        levels = fpn({str(i): x.permute(2, 0, 1)[None] for i, x in enumerate(features)})
        for number, level in enumerate(levels.values(), start=2):
            arrays[f"{name}/p{number}"] = level[0].permute(1, 2, 0)
    write_answers("fpn", arrays)


def write_answers(name, arrays):
    """Writes one fixture of tests/parity."""
    np.savez_compressed(FIXTURES / f"{name}.npz", **{k: np.asarray(v) for k, v in arrays.items()})


def tensors(*arrays):
    """Returns torch tensors of the same types."""
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


def anchors_of(sizes, canvas_hw, grids):
    """The anchors of each level, and their generator."""
    generator = AnchorGenerator(sizes, (peer_cases.TORCHVISION_RATIOS,) * len(sizes))
    images = ImageList(torch.zeros(1, 3, *canvas_hw), [canvas_hw])
    (anchors,) = generator(images, [torch.zeros(1, 1, *grid) for grid in grids])
    counts = [
        rows * columns * cells
        for (rows, columns), cells in zip(grids, generator.num_anchors_per_location(), strict=True)
    ]
    return anchors.split(counts), generator


def write_anchors():
    """The anchors of a position and of a canvas, for each level."""
    arrays = {}
    for name, case in peer_cases.ANCHORS.items():
        anchors, generator = anchors_of(*case)
        for level, (cells, grid) in enumerate(zip(generator.cell_anchors, anchors, strict=True)):
            arrays[f"{name}/cells{level}"] = cells
            arrays[f"{name}/anchors{level}"] = grid.to(torch.int16)
    write_answers("anchors", arrays)


def write_boxes():
    """Deltas, boxes decoded from deltas, and the deltas of boxes without area."""
    anchors, boxes, deltas = tensors(*peer_cases.coded_boxes())
    arrays = {}
    for name, weights in peer_cases.BOX_WEIGHTS.items():
        coder = torchvision.models.detection._utils.BoxCoder(weights)
        arrays[f"{name}/deltas"] = coder.encode_single(boxes, anchors)
        arrays[f"{name}/boxes"] = coder.decode_single(deltas * torch.tensor(weights), anchors)
    flat = boxes[:1, [0, 1, 0, 3]]
    arrays["flat/deltas"] = coder.encode_single(flat, anchors[:1])
    write_answers("boxes", arrays)


def region_proposal_network(**options):
    """Torchvision's network with the options of a case, without anchors and head."""
    options = {
        "fg_iou_thresh": 0.7,
        "bg_iou_thresh": 0.3,
        "batch_size_per_image": 256,
        "positive_fraction": 0.5,
        "pre_nms_top_n": {"testing": 1000},
        "post_nms_top_n": {"testing": 1000},
        "nms_thresh": 0.7,
    } | options
    return RegionProposalNetwork(None, None, **options).eval()


def write_matching():
    """The label of each anchor, and the object that it regresses to."""
    arrays = {}
    for name, (anchors, boxes, options) in peer_cases.matched_boxes().items():
        network = region_proposal_network(
            fg_iou_thresh=options.get("fg_iou_threshold", 0.7),
            bg_iou_thresh=options.get("bg_iou_threshold", 0.3),
        )
        network.proposal_matcher.allow_low_quality_matches = options.get("allow_low_quality", True)
        anchors, boxes = tensors(anchors, boxes)
        (labels,), (matched,) = network.assign_targets_to_anchors([anchors], [{"boxes": boxes}])
        arrays[f"{name}/labels"] = labels.to(torch.int8)
        positive = labels == 1
        arrays[f"{name}/matched"] = matched[positive]
    write_answers("matching", arrays)


def write_losses():
    """Both losses of two images, all of whose labelled anchors are sampled, and gradients."""
    arrays = {}
    for name, counts in peer_cases.SAMPLED.items():
        logits, deltas, labels, targets = tensors(*peer_cases.head_outputs_and_targets(*counts))
        logits.requires_grad_()
        deltas.requires_grad_()
        objectness, box = region_proposal_network().compute_loss(
            logits, deltas.reshape(-1, 4), list(labels.float()), list(targets)
        )
        gradients = torch.autograd.grad(objectness + box, (logits, deltas))
        arrays |= {f"{name}/loss_objectness": objectness.detach(), f"{name}/loss_box": box.detach()}
        arrays |= dict(zip((f"{name}/d_logits", f"{name}/d_deltas"), gradients, strict=True))
    write_answers("losses", arrays)


def write_nms():
    """The boxes that are kept, in the order in which they are returned."""
    arrays = {}
    for name, (boxes, scores, threshold) in peer_cases.suppressed_boxes().items():
        kept = torchvision.ops.nms(*tensors(boxes, scores), threshold)
        arrays[f"{name}/kept"] = kept.to(torch.int16)
    boxes, scores, threshold = peer_cases.suppressed_boxes()["random_0.5"]
    group = torch.arange(len(boxes)) % 5
    kept = torchvision.ops.batched_nms(*tensors(boxes, scores), group, threshold)
    arrays["groups/kept"] = kept.to(torch.int16)
    write_answers("nms", arrays)


def write_roi():
    """The features of regions, and the gradients of the maps, of one level and of a pyramid."""
    features, boxes = peer_cases.regions("pool")
    size, scale = peer_cases.ROI_SIZE, peer_cases.ROI_SCALE
    pool = torchvision.ops.RoIPool(size, scale)
    arrays = of_regions("pool", [features], boxes, lambda levels, boxes: pool(levels[0], boxes))
    for name, options in peer_cases.ROI_ALIGNS.items():
        features, boxes = peer_cases.regions(name)
        align = torchvision.ops.RoIAlign(size, scale, *options)
        arrays |= of_regions(name, [features], boxes, lambda x, boxes, f=align: f(x[0], boxes))
    levels, boxes = peer_cases.pyramid_regions()
    names = [str(index) for index in range(len(levels))]
    pooler = torchvision.ops.MultiScaleRoIAlign(names, size, 2)
    arrays |= of_regions(
        "pyramid",
        levels,
        boxes,
        lambda x, boxes: pooler(dict(zip(names, x, strict=True)), boxes, [(128, 160)]),
    )
    mapper = torchvision.ops.poolers.initLevelMapper(2, 5)
    arrays["levels"] = mapper(tensors(peer_cases.boxes_beside_levels())).to(torch.int8)
    write_answers("roi", arrays)


def of_regions(name, levels, boxes, pool):
    """The result of a function of feature maps and boxes, and the gradients of the maps."""
    levels = [x.permute(2, 0, 1)[None].requires_grad_() for x in tensors(*levels)]
    pooled = pool(levels, tensors(boxes))
    arrays = {f"{name}/features": pooled.detach().permute(0, 2, 3, 1)}
    (d_pooled,) = tensors(peer_cases.gradient_of_regions(*arrays[f"{name}/features"].shape))
    gradients = torch.autograd.grad(pooled, levels, d_pooled.permute(0, 3, 1, 2))
    for index, gradient in enumerate(gradients):
        arrays[f"{name}/d_level{index}"] = gradient[0].permute(1, 2, 0)
    return arrays


def write_proposals():
    """The proposals of images smaller than their canvas, and of outputs that are not finite."""
    arrays = {}
    for name, counts in peer_cases.PROPOSAL_COUNTS.items():
        sizes, grids = peer_cases.PROPOSAL_SIZES[name], peer_cases.PROPOSAL_GRIDS[name]
        anchors, _ = anchors_of(sizes, peer_cases.PROPOSAL_CANVAS[name], grids)
        logits, deltas = map(np.concatenate, peer_cases.head_outputs(name))
        logits, deltas = tensors(logits, deltas)
        network = region_proposal_network(
            pre_nms_top_n={"testing": counts[0]}, post_nms_top_n={"testing": counts[1]}
        )
        boxes = network.box_coder.decode(deltas, [torch.cat(anchors)]).reshape(1, -1, 4)
        network.min_size = peer_cases.PROPOSAL_MIN_SIZES[name]
        (kept,), (scores,) = network.filter_proposals(
            boxes, logits[None], [peer_cases.PROPOSAL_IMAGE[name]], [len(a) for a in anchors]
        )
        arrays |= {f"{name}/boxes": kept, f"{name}/scores": scores}
    logits, deltas, anchors = tensors(*peer_cases.head_outputs_not_finite())
    network = region_proposal_network()
    boxes = network.box_coder.decode_single(deltas, anchors)
    (arrays["not_finite/boxes"],), _ = network.filter_proposals(
        boxes[None], logits[None], [(100, 100)], [len(anchors)]
    )
    write_answers("proposals", arrays)


@torch.no_grad()
def write_detectors():
    """What whole detectors propose and detect, and names and shapes of their state dicts."""
    for name in peer_cases.DETECTORS:
        constructor = getattr(torchvision.models.detection, name)
        write_detector(name, seed_weights(constructor(weights=None, weights_backbone=None)))


def write_detector(name, model):
    """What one of them proposes and detects, and names and shapes of its state dict."""
    images, image_hw = peer_cases.padded_images()
    images = ImageList(*tensors(images.transpose(0, 3, 1, 2)), list(image_hw))
    features = model.backbone(images.tensors)
    boxes, _ = model.rpn(images, features)
    detections, _ = model.roi_heads(features, boxes, images.image_sizes)
    arrays = {f"boxes{index}": of_image for index, of_image in enumerate(boxes)}
    for index, of_image in enumerate(detections):
        if "masks" in of_image:
            masks, some = of_image.pop("masks"), slice(peer_cases.NUM_MASKS)
            pasted = paste_masks_in_image(masks[some], of_image["boxes"][some], image_hw[index])
            of_image["masks"] = np.packbits(pasted.numpy() > 0.5)
        arrays |= {f"detections{index}/{key}": array for key, array in of_image.items()}
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    arrays["names"] = list(shapes)
    arrays["shapes"] = [shape + (0,) * (4 - len(shape)) for shape in shapes.values()]
    write_answers(name, arrays)


def write_stage():
    """What RoIHeads makes of proposals: labels, losses with their gradients, detections."""
    heads = RoIHeads(
        *(None, None, None, 0.5, 0.5, 512, 0.25, (10.0, 10.0, 5.0, 5.0), 0.05, 0.5, 100),
    )
    arrays = {}
    for name in peer_cases.STAGE_CASES:
        case = peer_cases.stage_case(name)
        proposals, logits, deltas, objects, labels = tensors(*case.values())
        matched, classes = heads.assign_targets_to_proposals([proposals], [objects], [labels])
        arrays[f"{name}/labels"], arrays[f"{name}/gt_index"] = classes[0], matched[0]
        targets = heads.box_coder.encode([objects[matched[0]]], [proposals])
        logits.requires_grad_()
        flat = deltas.reshape(len(deltas), -1).requires_grad_()
        losses = fastrcnn_loss(logits, flat, classes, targets)
        for loss, of in zip(losses, ("class", "box"), strict=True):
            arrays[f"{name}/loss_{of}"] = loss.detach()
        sum(losses).backward()
        arrays[f"{name}/d_logits"], arrays[f"{name}/d_deltas"] = logits.grad, flat.grad
        boxes, scores, found = heads.postprocess_detections(
            logits.detach(), flat.detach(), [proposals], [peer_cases.STAGE_HW]
        )
        arrays[f"{name}/boxes"], arrays[f"{name}/scores"] = boxes[0], scores[0]
        arrays[f"{name}/found"] = found[0]
    write_answers("stage", arrays)


def write_masks():
    """Mask targets of whole bitmaps, the loss with its gradient, and masks pasted into an image."""
    case = peer_cases.mask_case()
    case = dict(zip(case, tensors(*case.values()), strict=True))
    bitmaps, regions, gt_index = case["bitmaps"].to(torch.uint8), case["regions"], case["gt_index"]
    targets = project_masks_on_boxes(bitmaps, regions, gt_index, peer_cases.MASK_SIZE)
    logits = case["logits"].permute(0, 3, 1, 2).requires_grad_()
    loss = maskrcnn_loss(logits, [regions], [bitmaps], [case["labels"]], [gt_index])
    loss.backward()
    d_logits = logits.grad[torch.arange(len(logits)), case["labels"][gt_index]]
    masks, boxes = tensors(*peer_cases.pasted_masks())
    pasted = paste_masks_in_image(masks[:, None], boxes, peer_cases.MASK_HW)[:, 0]
    arrays = {"targets": targets, "loss": loss.detach(), "d_logits": d_logits}
    write_answers("masks", arrays | {"pasted": np.packbits(pasted.numpy() > 0.5)})


def write_colors():
    """An image after each change of its colours."""
    image = torch.from_numpy(peer_cases.color_image()).permute(2, 0, 1)
    arrays = {}
    for name, factors in peer_cases.COLOR_FACTORS.items():
        for factor in factors:
            changed = getattr(functional, name)(image, factor)
            arrays[f"{name}/{factor}"] = changed.permute(1, 2, 0)
    write_answers("colors", arrays)


WRITERS = {
    "state_dicts": write_state_dicts,
    "features": write_features,
    "fpn": write_fpn,
    "anchors": write_anchors,
    "boxes": write_boxes,
    "matching": write_matching,
    "losses": write_losses,
    "nms": write_nms,
    "roi": write_roi,
    "stage": write_stage,
    "masks": write_masks,
    "colors": write_colors,
    "proposals": write_proposals,
    "detectors": write_detectors,
}


def main(names):
    """Writes the files of the names given, or all."""
    FIXTURES.mkdir(exist_ok=True)
    for name in names or WRITERS:
        WRITERS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
