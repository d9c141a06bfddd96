"""The region proposal network of torchvision's fasterrcnn_resnet50_fpn, from file to proposals."""

import jax
import numpy as np
import safetensors.numpy
from peer_cases import fasterrcnn_state_dict, padded_images, peer_answers

from rpn_jax.detectors.rpn import Look
from rpn_jax.training.build import build_detector, load_pretrained
from rpn_jax.weights.networks import source_config


def test_proposals_are_torchvisions(tmp_path):
    path = tmp_path / "fasterrcnn.safetensors"
    safetensors.numpy.save_file(fasterrcnn_state_dict(), path)
    config = source_config("torchvision/fasterrcnn_resnet50_fpn")
    config.model.pretrained = str(path)
    detector = build_detector(config)
    variables = load_pretrained(config, detector.network).collections
    images, image_hw = padded_images()

    @jax.jit
    def run(variables, images, image_hw):
        logits, deltas = detector.network.apply(variables, images)
        look = Look(logits, deltas, detector.anchors(*images.shape[1:3]), {})
        return detector.proposals_of(look, image_hw, detector.proposals.test)

    proposals = run(variables, images, np.float32(image_hw))
    answers = peer_answers("fasterrcnn")
    for index, valid in enumerate(np.asarray(proposals.valid)):
        boxes, scores = (
            np.asarray(of_images)[index][valid] for of_images in (proposals.boxes, proposals.scores)
        )
        expected = answers[f"boxes{index}"]
        assert len(boxes) == len(expected) > 500
        # Rounding may exchange boxes whose scores, 0 to 1, are as good as equal.
        moved = np.flatnonzero(np.abs(boxes - expected).max(axis=1) > 1e-2)
        assert len(moved) < 10
        for i in moved:
            (place,) = moved[np.abs(boxes[i] - expected[moved]).max(axis=1) < 1e-2]
            assert abs(scores[place] - scores[i]) < 1e-5
