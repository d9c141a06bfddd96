"""torchvision's Faster and Mask R-CNN, from a file to proposals, detections and masks."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from peer_cases import DETECTORS, NUM_MASKS, detector_state_dict, padded_images, peer_answers

from rpn_jax.detectors.rpn import Look
from rpn_jax.evaluation.masks import paste_mask_as_torchvision
from rpn_jax.models.rcnn import RCNN
from rpn_jax.training.build import build_detector, load_pretrained
from rpn_jax.weights.sources import read_source


@pytest.fixture(scope="module", params=DETECTORS)
def found(request, tmp_path_factory):
    """What is found in two images: proposals and detections, and torchvision's answers."""
    path = tmp_path_factory.mktemp("torchvision") / f"{request.param}.safetensors"
    safetensors.numpy.save_file(detector_state_dict(request.param), path)
    config = read_source(path).config
    config.model.pretrained = str(path)
    detector = build_detector(config)
    pretrained = load_pretrained(config, detector.network)
    assert pretrained.unused == []
    assert pretrained.missing == ()
    images, image_hw = padded_images()

    @jax.jit
    def run(variables, images, image_hw):
        # As `FasterRCNN.look`, of images that are normalised already.
        levels, *outputs = detector.network.apply(variables, images, method=RCNN.look)
        look = Look(*outputs, detector.anchors(*images.shape[1:3]), {}, levels)
        proposals = detector.proposals_of(look, image_hw, detector.proposals.test)
        return proposals, detector.fast().detections_of(look.levels, variables, proposals, image_hw)

    ours = jax.device_get(run(pretrained.collections, images, np.float32(image_hw)))
    return *ours, peer_answers(request.param)


def test_proposals_are_torchvisions(found):
    proposals, _, answers = found
    for index, valid in enumerate(proposals.valid):
        boxes, scores = proposals.boxes[index][valid], proposals.scores[index][valid]
        expected = answers[f"boxes{index}"]
        assert len(boxes) == len(expected) > 400
        # Rounding may exchange boxes whose scores, 0 to 1, are as good as equal.
        moved = np.flatnonzero(np.abs(boxes - expected).max(axis=1) > 1e-2)
        assert len(moved) < 10
        for i in moved:
            (place,) = moved[np.abs(boxes[i] - expected[moved]).max(axis=1) < 1e-2]
            assert abs(scores[place] - scores[i]) < 1e-5


def test_detections_are_torchvisions(found):
    _, detections, answers = found
    assert len(set(detections.labels[detections.valid].tolist())) > 3
    for index, valid in enumerate(detections.valid):
        expected = {
            name: answers[f"detections{index}/{name}"] for name in ("boxes", "scores", "labels")
        }
        assert valid.sum() == len(expected["labels"]) == 100
        np.testing.assert_allclose(detections.scores[index], expected["scores"], atol=1e-4)
        # Those whose scores are as good as equal may be exchanged.
        near = np.abs(expected["scores"][:, None] - expected["scores"]) < 1e-5
        same = expected["labels"] == detections.labels[index][:, None]
        apart = np.abs(expected["boxes"] - detections.boxes[index][:, None]).max(axis=-1)
        assert (near & same & (apart < 0.05)).any(axis=1).all()


@pytest.mark.parametrize("found", ["maskrcnn_resnet50_fpn"], indirect=True)
def test_masks_are_torchvisions(found):
    _, detections, answers = found
    _, image_hw = padded_images()
    for index, hw in enumerate(image_hw):
        boxes, masks = detections.boxes[index], detections.masks[index]
        packed = answers[f"detections{index}/masks"]
        theirs = np.unpackbits(packed, count=NUM_MASKS * hw[0] * hw[1]).reshape(-1, *hw) > 0
        for expected, box in zip(theirs, answers[f"detections{index}/boxes"], strict=False):
            (nearest, *_) = np.argsort(np.abs(boxes - box).max(axis=1))
            pasted = paste_mask_as_torchvision(masks[nearest], boxes[nearest], *hw)
            assert expected.sum() > 50
            assert (pasted & expected).sum() >= 0.99 * (pasted | expected).sum()
