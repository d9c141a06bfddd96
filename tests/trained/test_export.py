"""What is exported: compiled proposals that need no code of ours, a dict that torchvision loads."""

import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from training.small import small_batch, small_config, small_mask_config

import rpn_jax
from rpn_jax.errors import UserError
from rpn_jax.evaluation.masks import paste_mask_as_torchvision
from rpn_jax.models.rcnn import variable_shapes
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.trained.export import export_function, export_weights, predict_function
from rpn_jax.training.build import build_detector, build_network
from rpn_jax.weights.exporting import torchvision_arrays, torchvision_layout
from rpn_jax.weights.layouts import layout_called
from rpn_jax.weights.loading import recognize
from rpn_jax.weights.model_file import write_model
from rpn_jax.weights.networks import TORCHVISION, TORCHVISION_V2, source_config
from rpn_jax.weights.sources import Source, load_source

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
READER = """
import sys
sys.modules["rpn_jax"] = sys.modules["flax"] = None  # an import of either would fail
import jax
import numpy as np
function = jax.export.deserialize(open("proposals.jax", "rb").read())
with np.load("images.npz") as given:
    found = function.call(given["images"], given["image_hw"])
np.savez("found.npz", platforms=function.platforms, **found)
"""


def as_model_file(config, path):
    """Writes a model file of random arrays; returns the network and its variables."""
    network = build_network(config)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: np.float32(0.1 * rng.standard_normal(leaf.shape)),
        variable_shapes(network),
    )
    write_model(path, config, variables, source="a test")
    return network, variables


def test_exported_for_three_platforms_and_read_without_our_code(tmp_path):
    config = small_config()
    path = tmp_path / "model.safetensors"
    network, variables = as_model_file(config, path)
    of_before = tmp_path / "proposals.jax.classes.json"  # of a detector that had this name
    of_before.write_text("{}")
    size = export_function(
        config, path, tmp_path / "proposals.jax", image_hw=(48, 64), batch_size=2
    )
    assert (tmp_path / "proposals.jax").stat().st_size == size
    assert not of_before.exists()

    batch = small_batch(2)
    image_hw = np.float32([[48, 60], [40, 64]])
    np.savez(tmp_path / "images.npz", images=batch.images, image_hw=image_hw)
    subprocess.run([sys.executable, "-c", READER], cwd=tmp_path, check=True)
    live = jax.jit(predict_function(build_detector(config), variables))(batch.images, image_hw)
    assert live["boxes"].shape == (2, 20, 4)
    assert live["valid"].sum() > 20
    with np.load(tmp_path / "found.npz") as found:
        assert list(found["platforms"]) == ["cpu", "cuda", "tpu"]
        np.testing.assert_array_equal(found["valid"], live["valid"])
        np.testing.assert_allclose(found["scores"], live["scores"], rtol=1e-5)
        np.testing.assert_allclose(found["boxes"], live["boxes"], rtol=1e-5, atol=1e-4)


def test_masks_are_exported_with_how_they_are_pasted(tmp_path):
    config = small_mask_config("--config.mask.pasting=torchvision")
    path, out = tmp_path / "model.safetensors", tmp_path / "detector.jax"
    as_model_file(config, path)
    export_function(config, path, out, image_hw=(48, 64), batch_size=2)
    function = jax.export.deserialize(out.read_bytes())
    assert function.platforms == ("cpu", "cuda", "tpu")
    found = jax.tree.unflatten(function.out_tree, function.out_avals)
    assert {name: array.shape for name, array in found.items()} == {
        "boxes": (2, 10, 4),
        "scores": (2, 10),
        "labels": (2, 10),
        "valid": (2, 10),
        "masks": (2, 10, 8, 8),
    }
    assert json.loads((tmp_path / "detector.jax.classes.json").read_text())["1"] == "dark"
    how = json.loads((tmp_path / "detector.jax.pasting.json").read_text())
    assert how == {"pasting": "torchvision", "threshold": 0.5}
    masks, boxes = np.full((3, 8, 8), 0.7, np.float32), np.float32([[4, 5, 20, 15]] * 3)
    pasted = rpn_jax.paste_masks(masks, boxes, 30, 40, **how)
    assert pasted.shape == (3, 30, 40)
    np.testing.assert_array_equal(pasted[2], paste_mask_as_torchvision(masks[0], boxes[0], 30, 40))
    assert rpn_jax.paste_masks(masks[:0], boxes[:0], 30, 40).shape == (0, 30, 40)


def test_a_canvas_without_a_cell_and_a_platform_that_there_is_not(tmp_path):
    config = small_config()
    path, out = tmp_path / "model.safetensors", tmp_path / "proposals.jax"
    with pytest.raises(UserError, match="^platforms: 'gpu' is unknown; give one or more of cpu,"):
        export_function(config, path, out, image_hw=(48, 64), platforms=("cpu", "gpu"))
    config = small_config("--config.model.backbone=vgg16", "--config.model.norm=None")
    as_model_file(config, path)
    with pytest.raises(UserError, match="^image size 1x64: leaves no cell"):
        export_function(config, path, out, image_hw=(1, 64))
    assert not out.exists()


TORCHVISION_FIELDS = (
    "--config.model.backbone=resnet50",
    "--config.model.neck=fpn",
    "--config.rpn.channels=256",
    "--config.model.input_convention=torchvision",
    "--config.rpn.anchors.sizes=((32.0,),(64.0,),(128.0,),(256.0,),(512.0,))",
    "--config.rpn.anchors.rounding=torchvision",
    "--config.rpn.anchors.offset=0.0",
)


@pytest.mark.parametrize(
    ("name", "detector"),
    [
        (TORCHVISION, "rpn"),
        (TORCHVISION, "faster_rcnn"),
        (TORCHVISION_V2, "faster_rcnn"),
        ("torchvision/maskrcnn_resnet50_fpn", "mask_rcnn"),
    ],
)
def test_what_was_imported_from_torchvision_is_exported_as_it_was(name, detector):
    of_masks = "torchvision/maskrcnn_resnet50_fpn"  # has all that the first Faster R-CNN has
    file = of_masks if name == TORCHVISION else name
    with np.load(FIXTURES / f"{file.partition('/')[2]}.npz") as fixture:
        shapes = {
            name: tuple(size for size in shape if size > 0)
            for name, shape in zip(fixture["names"].tolist(), fixture["shapes"], strict=True)
        }
    arrays = {
        name: np.array(0)
        if name.endswith("num_batches_tracked")
        else np.arange(math.prod(shape), dtype=np.float32).reshape(shape) + i
        for i, (name, shape) in enumerate(shapes.items())
        if detector != "rpn" or not name.startswith("roi_heads.")
        if detector == "mask_rcnn" or not name.startswith("roi_heads.mask_")
    }
    path = pathlib.Path("state_dict.pth")
    layout, _ = recognize(path, arrays)
    theirs = source_config(name, detector)
    config = theirs.copy_and_resolve_references()
    ours = theirs.rpn.anchors.aspect_ratios[::-1]
    config.rpn.anchors.aspect_ratios = ours  # so the head's channels change places, twice
    assert torchvision_layout(config) == layout
    loaded = load_source(config, build_network(config), Source(path, layout, arrays, theirs))
    exported = torchvision_arrays(jax.device_get(loaded.collections), layout, ours)
    assert exported.keys() == arrays.keys()
    for name, array in arrays.items():
        assert exported[name].dtype == array.dtype
        np.testing.assert_array_equal(exported[name], array, err_msg=name)


def test_the_heads_channels_are_put_in_torchvisions_order():
    ratios = (1.0, 0.5, 2.0)  # width / height; torchvision's 0.5, 1, 2 is height / width
    kernel = np.arange(9 * 2 * 3, dtype=np.float32).reshape(3, 3, 2, 3)
    head = {
        "conv": {"kernel": kernel, "bias": np.zeros(3, np.float32)},
        "objectness": {"kernel": np.float32([[[[1.0, 0.5, 2.0]]]]), "bias": np.float32(ratios)},
        "deltas": {
            "kernel": np.zeros((1, 1, 1, 12), np.float32),
            "bias": np.float32([10 * ratio + i for ratio in ratios for i in range(4)]),
        },
    }
    arrays = torchvision_arrays({"params": {"rpn": head}}, layout_called(TORCHVISION), ratios)
    np.testing.assert_array_equal(arrays["rpn.head.cls_logits.bias"], [2, 1, 0.5])
    np.testing.assert_array_equal(arrays["rpn.head.cls_logits.weight"][:, 0, 0, 0], [2, 1, 0.5])
    np.testing.assert_array_equal(
        arrays["rpn.head.bbox_pred.bias"], [20, 21, 22, 23, 10, 11, 12, 13, 5, 6, 7, 8]
    )
    weight = arrays["rpn.head.conv.0.0.weight"]
    assert weight.shape == (3, 2, 3, 3)
    assert weight[2, 1, 0, 2] == kernel[0, 2, 1, 2]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.backbone=resnet101", "config.model.backbone is 'resnet101' instead of 'resnet50'"),
        ("model.stride_in_1x1=true", "config.model.stride_in_1x1 is True instead of False"),
        ("model.norm=group_norm", "config.model.norm is 'group_norm' instead of"),
        ("rpn.objectness=softmax", "config.rpn.objectness is 'softmax'"),
        ("model.input_convention=caffe", "config.model.input_convention is 'caffe'"),
        (
            "rpn.anchors.sizes=((8.0,),(16.0,),(32.0,),(64.0,),(128.0,))",
            "config.rpn.anchors.sizes is",
        ),
        (
            "rpn.anchors.aspect_ratios=(1.0,2.0,3.0)",
            "config.rpn.anchors.aspect_ratios is [1.0, 2.0, 3.0]",
        ),
        ("rpn.anchors.offset=0.5", "config.rpn.anchors.offset is 0.5 instead of 0.0"),
        ("rpn.box_weights=(10.0,10.0,5.0,5.0)", "config.rpn.box_weights is"),
    ],
)
def test_what_torchvision_cannot_hold_is_refused_by_field(tmp_path, override, reason):
    config = apply_overrides(default_config(), [*TORCHVISION_FIELDS, f"--config.{override}"])
    with pytest.raises(UserError) as error:
        export_weights(
            config,
            tmp_path / "absent.safetensors",
            tmp_path / "out.safetensors",
            file_format="torchvision",
        )
    assert str(error.value).startswith("--format=torchvision: ")
    assert reason in str(error.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_backbone_alone_and_another_network_are_refused(tmp_path):
    path, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    config = small_config()
    _, variables = as_model_file(config, path)
    other = small_config("--config.rpn.channels=24")
    with pytest.raises(UserError, match=r"does not fit config\.model: of another shape: "):
        export_weights(other, path, out)
    variables = {"params": {"backbone": variables["params"]["backbone"]}}
    write_model(path, config, variables, source="a test")
    with pytest.raises(UserError, match="holds a backbone alone"):
        export_weights(config, path, out)
    assert not out.exists()
    with pytest.raises(UserError, match=r"--out=.*: a file of weights ends in \.safetensors"):
        export_weights(config, path, tmp_path / "out.pth")


def test_an_exported_file_holds_the_same_arrays(tmp_path):
    path, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    config = small_config()
    as_model_file(config, path)
    line = export_weights(config, path, out)
    assert str(out) in line
    ours, theirs = safetensors.numpy.load_file(path), safetensors.numpy.load_file(out)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])
