"""Whole detectors of other projects: both stages, their classes, and a start for other classes."""

import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import variable_shapes
from rpn_jax.runs.config import default_config, flatten
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.trained import importing
from rpn_jax.trained.importing import import_weights
from rpn_jax.training.build import build_network, initial_variables, load_pretrained
from rpn_jax.weights.layouts import LAYOUTS
from rpn_jax.weights.model_file import read_model
from rpn_jax.weights.networks import source_config
from rpn_jax.weights.sources import read_source

TORCHVISION = "torchvision/fasterrcnn_resnet50_fpn"
# Narrow networks of few classes.
NARROW = ("--config.model.backbone=resnet18", "--config.rpn.channels=8")
NARROW_BOX = (*NARROW, "--config.box.channels=8")
NARROW_FPN = (*NARROW_BOX, "--config.model.fpn_channels=8")
NARROW_MASK = (*NARROW_FPN, "--config.mask.channels=4")
MASK = "torchvision/maskrcnn_resnet50_fpn"
OVERRIDES = {
    TORCHVISION: ("faster_rcnn", NARROW_FPN),
    f"{MASK}_v2": ("mask_rcnn", NARROW_MASK),
    "detectron2/r50_c4": ("mask_rcnn", (*NARROW, "--config.mask.channels=4")),
    "detectron2/r50_dc5": ("faster_rcnn", NARROW_BOX),
    "detectron2/r50_fpn": ("mask_rcnn", NARROW_MASK),
}


def written(name, tmp_path, num_classes=3):
    """Writes a narrow detector as its project would; returns the file and our arrays of it."""
    layout = next(layout for layout in LAYOUTS if layout.name == name.replace("/mask", "/faster"))
    detector, overrides = OVERRIDES[name]
    config = apply_overrides(source_config(name, detector, num_classes), overrides)
    shapes = traverse_util.flatten_dict(variable_shapes(build_network(config)))
    rng = np.random.default_rng(0)
    ours = {leaf: rng.random(shape.shape, np.float32) for leaf, shape in shapes.items()}
    theirs = {
        layout.array_name(leaf[1:]): as_torch_has_it(
            leaf, array, config.box.pooling.size, layout.background_last
        )
        for leaf, array in ours.items()
    }
    path = tmp_path / "theirs.safetensors"
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in theirs.items()}, path
    )
    return path, ours


def as_torch_has_it(leaf, array, pooled_size, background_last):
    if background_last and leaf[1:3] == ("box", "scores"):
        array = np.concatenate([array[..., 1:], array[..., :1]], axis=-1)
    if background_last and leaf[1:3] == ("box", "deltas"):
        array[..., :4] = 0  # there is no box of background
        array = array[..., 4:]
    if background_last and leaf[1:3] == ("mask", "logits"):
        array[..., 0] = 0
        array = array[..., 1:]
    if leaf[1:3] == ("mask", "upsample") and array.ndim == 4:
        return array.transpose(2, 3, 0, 1)
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if leaf[1:] == ("box", "fc6", "kernel"):
        maps = array.reshape(pooled_size, pooled_size, -1, array.shape[1])
        return maps.transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
    return array.T


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_detector_becomes_a_model_file(name, tmp_path):
    path, ours = written(name, tmp_path)
    out = tmp_path / "ours.safetensors"
    detector, overrides = OVERRIDES[name]
    said = import_weights(path, name, out, overrides, bn_eps=1e-5)
    assert "not used" not in said
    assert said.endswith("3 classes have numbers for names, --config.box.class_names gives others")
    model = read_model(out)
    assert model.config.detector == detector
    assert model.config.box.class_names == ("class 1", "class 2", "class 3")
    found = traverse_util.flatten_dict(model.collections)
    assert found.keys() == ours.keys()
    sizes_outside = name in ("detectron2/r50_c4", "detectron2/r50_dc5")
    for leaf, array in ours.items():
        if sizes_outside and leaf[1:3] in (("rpn", "objectness"), ("rpn", "deltas")):
            continue  # the order of its anchors is another, see test_importing
        np.testing.assert_array_equal(found[leaf], array, err_msg="/".join(leaf))


def test_names_for_its_classes_and_its_first_stage_alone(tmp_path):
    path, _ = written(TORCHVISION, tmp_path)
    out = tmp_path / "ours.safetensors"
    names = "--config.box.class_names=('RBC', 'WBC', 'platelet')"
    import_weights(path, TORCHVISION, out, [*NARROW_FPN, names], bn_eps=1e-5)
    model = read_model(out)
    assert model.config.box.class_names == ("RBC", "WBC", "platelet")
    assert "scores" in model.collections["params"]["box"]
    two = "--config.box.class_names=('a', 'b')"
    with pytest.raises(UserError, match=r"^--config.box.class_names: are 2, but .* has 3 classes"):
        import_weights(path, TORCHVISION, out, [*NARROW_FPN, two], bn_eps=1e-5)
    overrides = NARROW_FPN[:2] + NARROW_FPN[3:]
    said = import_weights(path, TORCHVISION, out, overrides, bn_eps=1e-5, detector="rpn")
    assert "not used: roi_heads" in said
    assert "box" not in read_model(out).config
    rpn_file = tmp_path / "rpn.safetensors"
    arrays = safetensors.numpy.load_file(path)
    kept = {name: array for name, array in arrays.items() if "roi_heads" not in name}
    safetensors.numpy.save_file(kept, rpn_file)
    with pytest.raises(UserError, match=r"^--detector=faster_rcnn: .* holds no second stage"):
        import_weights(rpn_file, TORCHVISION, out, bn_eps=1e-5, detector="faster_rcnn")


def test_the_ids_of_classes_follow_their_names(tmp_path):
    """Twenty classes are taken for VOC's, eighty for COCO's, unless the user names them."""
    path, _ = written("detectron2/r50_fpn", tmp_path, 80)
    source = read_source(path)
    names = source.config.box.class_names
    for given, ids in (
        ((names[1], names[0], *names[2:]), (2, 1, 3)),
        (("human", *names[1:]), ("human", 2, 3)),
        ([f"kind {i}" for i in range(80)], ()),
    ):
        override = f"--config.box.class_names={tuple(given)}"
        _, config = importing._with_overrides(
            source, source.config.copy_and_resolve_references(), [override]
        )
        assert config.box.category_ids[:3] == ids
    for given in (("a", "b"), (*names, "one more")):
        with pytest.raises(UserError, match=r"^--config.box.class_names: are .* has 80 classes"):
            importing._with_overrides(
                source,
                source.config.copy_and_resolve_references(),
                [f"--config.box.class_names={given}"],
            )


def test_two_of_three_stages_and_one_name_for_each_number(tmp_path):
    name = f"{MASK}_v2"
    path, ours = written(name, tmp_path)
    out = tmp_path / "ours.safetensors"
    said = import_weights(path, name, out, NARROW_FPN, bn_eps=1e-5, detector="faster_rcnn")
    assert "not used: roi_heads.mask_" in said
    assert "mask" not in read_model(out).config
    two_stages = tmp_path / "two.safetensors"
    arrays = safetensors.numpy.load_file(path)
    kept = {name: array for name, array in arrays.items() if ".mask_" not in name}
    safetensors.numpy.save_file(kept, two_stages)
    with pytest.raises(UserError, match=r"^--model=torchvision/maskrcnn.* holds a faster_rcnn by"):
        import_weights(two_stages, name, out, NARROW_FPN, bn_eps=1e-5)
    more = tmp_path / "more.safetensors"
    fifth = {"roi_heads.mask_head.4.0.weight": np.zeros((3, 3), np.float32)}
    safetensors.numpy.save_file(arrays | fifth, more)
    with pytest.raises(UserError, match=r"left over: roi_heads\.mask_head\.4\.0\.weight"):
        import_weights(more, name, out, NARROW_FPN, bn_eps=1e-5)
    faster = name.replace("mask", "faster")
    with pytest.raises(UserError, match=r"^--detector=mask_rcnn: .* no third stage; give faster"):
        import_weights(two_stages, faster, out, NARROW_FPN, bn_eps=1e-5, detector="mask_rcnn")
    # A third stage is drawn where the file has two.
    config = apply_overrides(source_config(name, "mask_rcnn", 3), NARROW_MASK)
    config.model.pretrained = str(two_stages)
    pretrained = load_pretrained(config, build_network(config))
    assert set(pretrained.collections["params"]) == {"backbone", "neck", "rpn", "box"}


def test_older_names_of_torchvisions_masks():
    (layout,) = (layout for layout in LAYOUTS if layout.name == TORCHVISION)
    old = "roi_heads.mask_head.mask_fcn2.weight"
    assert layout.present_name(old) == layout.array_name(("mask", "conv2", "kernel"))


def test_a_detector_of_other_classes_keeps_all_but_the_last_layers(tmp_path, capsys):
    path, ours = written(TORCHVISION, tmp_path)
    out = tmp_path / "ours.safetensors"
    names = "--config.box.class_names=('cat', 'dog', 'cow')"
    import_weights(path, TORCHVISION, out, [*NARROW_FPN, names], bn_eps=1e-5)
    config = read_model(out).config
    config.model.pretrained = str(out)
    config.box.class_names = ("cat", "dog")
    network = build_network(config)
    pretrained = load_pretrained(config, network)
    said = capsys.readouterr().out
    assert said.endswith("; drawn from the seed: box/deltas and box/scores\n")
    params = initial_variables(config, network, pretrained)["params"]
    assert params["box"]["scores"]["kernel"].shape == (8, 3)
    np.testing.assert_array_equal(
        params["box"]["fc6"]["kernel"], ours["params", "box", "fc6", "kernel"]
    )
    config.box.class_names = ("cow", "cat", "dog")
    config.model.pretrained_last = False
    last = load_pretrained(config, build_network(config)).missing
    assert set(last) == {"box/scores", "box/deltas"}
    config.model.pretrained_last = True
    pretrained = load_pretrained(config, build_network(config))
    assert pretrained.missing == ()
    theirs = ours["params", "box", "scores", "kernel"]  # of background, cat, dog and cow
    found = pretrained.collections["params"]["box"]["scores"]["kernel"]
    np.testing.assert_array_equal(found, theirs[:, [0, 3, 1, 2]])
    config.box.box_weights = (1.0, 1.0, 1.0, 1.0)
    with pytest.raises(UserError, match=r"^config.box.box_weights: is .* was trained with"):
        load_pretrained(config, build_network(config))


def test_a_classifiers_fully_connected_layers_begin_a_detector(tmp_path, capsys):
    config = default_config("faster_rcnn")
    config.model.input_convention = "torchvision"
    config.box.class_names = ("cat",)
    config.box.channels = 2
    config.box.pooling.size = 2
    network = build_network(config)
    layout = next(layout for layout in LAYOUTS if layout.name == "torchvision/vgg16")
    shapes = traverse_util.flatten_dict(variable_shapes(network)["params"]["backbone"])
    arrays = {
        layout.array_name(("backbone", *leaf)): np.zeros(shape.shape[::-1], np.float32)
        for leaf, shape in shapes.items()
    }
    # Channel-major, as torch flattens: 512 channels of 2 x 2 cells.
    arrays["classifier.0.weight"] = np.arange(2 * 2048, dtype=np.float32).reshape(2, 2048)
    arrays["classifier.0.bias"] = np.float32([5, 6])
    arrays["classifier.3.weight"] = np.float32([[1, 2], [3, 4]])
    arrays["classifier.3.bias"] = np.float32([7, 8])
    arrays["classifier.6.bias"] = np.zeros(1000, np.float32)
    path = tmp_path / "vgg16.safetensors"
    safetensors.numpy.save_file(arrays, path)
    config.model.pretrained = str(path)
    box = load_pretrained(config, network).collections["params"]["box"]
    assert "drawn from the seed: rpn and box/deltas and box/scores" in capsys.readouterr().out
    assert set(box) == {"fc6", "fc7"}
    np.testing.assert_array_equal(box["fc7"]["kernel"], [[1, 3], [2, 4]])
    # Cell (0, 1) of channel 3 is the 512 + 3rd of ours and the 4 * 3 + 1st of theirs.
    np.testing.assert_array_equal(box["fc6"]["kernel"][512 + 3], [13, 2048 + 13])


@pytest.mark.parametrize("in_caffes_order", [True, False])
@pytest.mark.parametrize("name", ["vgg16", "zf"])
def test_arrays_of_py_faster_rcnn(name, in_caffes_order, tmp_path):
    layout = next(layout for layout in LAYOUTS if layout.name == f"py-faster-rcnn/{name}")
    config = source_config(layout.name, "faster_rcnn")
    config.box.channels, config.rpn.channels = 2, 4
    network = build_network(config)
    shapes = traverse_util.flatten_dict(variable_shapes(network)["params"])
    ours = {
        leaf: np.broadcast_to(np.float32(number), shape.shape)
        for number, (leaf, shape) in enumerate(shapes.items())
    }
    ours["box", "deltas", "bias"] = np.arange(84, dtype=np.float32)
    arrays = {
        layout.array_name(leaf): as_torch_has_it(
            ("params", *leaf), array, config.box.pooling.size, background_last=False
        )
        if in_caffes_order
        else array
        for leaf, array in ours.items()
    }
    path = tmp_path / "detector.npz"
    np.savez(path, **arrays)
    source = read_source(path)
    assert source.layout.name == layout.name
    wanted = {
        "box.box_weights": [1, 1, 1, 1],
        "box.detections.nms_threshold": 0.3,
        "box.pooling.kind": "pool",
        "rpn.objectness": "softmax",
        "rpn.proposals.test.post_nms_top_n": 300,
        "data.shorter_side": 600,
    }
    fields = flatten(source.config)
    assert {field: fields[field] for field in wanted} == wanted
    assert source.config.box.class_names[14] == "person"
    config.model.pretrained = str(path)
    loaded = traverse_util.flatten_dict(load_pretrained(config, network).collections["params"])
    for leaf, array in ours.items():
        np.testing.assert_array_equal(loaded[leaf], array, err_msg="/".join(leaf))


def test_detectron2_has_two_depths_and_cocos_classes():
    config = source_config("detectron2/r101_fpn", "faster_rcnn")
    assert config.model.backbone == "resnet101"
    assert config.box.class_names[0] == "person"
    assert config.box.category_ids[-1] == 90
    assert len(config.box.class_names) == 80
    assert config.box.pooling.aligned
    assert config.box.pooling.sampling_ratio == 0
    assert config.box.pooling.level_eps == 1e-8
    assert source_config(TORCHVISION, "faster_rcnn").box.pooling.level_eps == 1e-6
