"""From a file of another project to a model file, and from there into a network."""

import hashlib
import pathlib
import pickle

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from rpn_jax.__main__ import main
from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import variable_shapes
from rpn_jax.runs.config import default_config, flatten
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.trained.importing import import_weights
from rpn_jax.training.build import build_network, initial_variables, load_pretrained
from rpn_jax.training.stages import anchors_at_origin
from rpn_jax.weights import sources
from rpn_jax.weights.layouts import LAYOUTS, own_layout
from rpn_jax.weights.model_file import read_model, write_model
from rpn_jax.weights.networks import source_config
from rpn_jax.weights.sources import Source, load_source

C4, FPN = "detectron2/r50_c4", "detectron2/r50_fpn"
TORCHVISION = "torchvision/fasterrcnn_resnet50_fpn"
# The networks of other projects, as narrow as their names allow.
NARROW = ("--config.model.backbone=resnet18", "--config.rpn.channels=8")
NARROW_FPN = (*NARROW, "--config.model.fpn_channels=8")


def layout_called(name):
    return next(layout for layout in LAYOUTS if layout.name == name)


def arrays_as_in(layout, config):
    """What a layout has of the arrays of the config's network; each holds its own number."""
    arrays = {}
    for tree in variable_shapes(build_network(config)).values():
        for leaf, shape in traverse_util.flatten_dict(tree).items():
            array = np.broadcast_to(np.float16(len(arrays) + 1), shape.shape)
            if array.ndim == 4:
                array = array.transpose(np.argsort(layout.dialect.kernel_axes))
            if name := layout.array_name(leaf):
                arrays[name] = array
    return arrays


@pytest.fixture(scope="module")
def c4_arrays():
    """Those of a detectron2 C4 whose head's biases are the numbers of their channels."""
    config = apply_overrides(source_config(C4), NARROW)
    arrays = arrays_as_in(layout_called(C4), config)
    head = "proposal_generator.rpn_head"
    arrays[f"{head}.objectness_logits.bias"] = np.arange(15, dtype=np.float32)
    arrays[f"{head}.anchor_deltas.bias"] = np.arange(60, dtype=np.float32)
    return arrays


@pytest.fixture(scope="module")
def c4_file(c4_arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    rest = {"roi_heads.box_predictor.bbox_pred.bias": np.zeros(4, np.float32)}
    path.write_bytes(pickle.dumps({"model": {**c4_arrays, **rest}, "__author__": "a zoo"}))
    return path


@pytest.fixture(scope="module")
def imported(c4_file):
    """The model file that is made of it, and what was said about it."""
    out = c4_file.with_name("model.safetensors")
    return out, import_weights(c4_file, C4, out, NARROW)


def detectron2_channels(config):
    """For each anchor of the config, its channel in detectron2's head, told by its shape."""
    theirs = [(size, ratio) for size in (32, 64, 128, 256, 512) for ratio in (0.5, 1, 2)]
    (cells,) = anchors_at_origin(config)
    width, height = (cells[:, 2:] - cells[:, :2]).T
    sizes, ratios = np.sqrt(width * height), height / width
    return [theirs.index((round(s), round(r, 3))) for s, r in zip(sizes, ratios, strict=True)]


def assert_head_is_that_of(config, head):
    channels = detectron2_channels(config)
    assert sorted(channels) == list(range(15))
    assert channels != list(range(15))
    np.testing.assert_array_equal(head["objectness"]["bias"], channels)
    deltas = np.asarray(head["deltas"]["bias"]).reshape(15, 4)
    np.testing.assert_array_equal(deltas, np.arange(60).reshape(15, 4)[channels])


def test_a_network_of_detectron2_becomes_a_model_file(c4_arrays, imported):
    out, said = imported
    assert "not used: roi_heads.box_predictor.bbox_pred.bias" in said
    model = read_model(out)
    assert_head_is_that_of(model.config, model.collections["params"]["rpn"])
    params, statistics = (model.collections[name]["backbone"] for name in ("params", "batch_stats"))
    np.testing.assert_array_equal(
        params["c3"]["block1"]["shortcut"]["conv"]["kernel"],
        c4_arrays["backbone.res3.0.shortcut.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        statistics["c1"]["conv1"]["norm"]["var"],
        c4_arrays["backbone.stem.conv1.norm.running_var"],
    )
    assert model.source == "detectron2's R-CNN on C4, model_final.pkl"


def test_a_model_file_is_read_into_a_network(imported):
    out, _ = imported
    model = read_model(out)
    model.config.model.pretrained = str(out)
    loaded = load_pretrained(model.config, build_network(model.config))
    jax.tree.map(np.testing.assert_array_equal, loaded.collections, model.collections)
    assert loaded.unused == []


def test_the_head_follows_the_configs_order_of_anchors(imported):
    out, _ = imported
    config = read_model(out).config
    config.model.pretrained = str(out)
    config.rpn.anchors.aspect_ratios = (0.5, 2.0, 1.0)
    config.rpn.anchors.sizes = (512.0, 32.0, 64.0, 128.0, 256.0)
    loaded = load_pretrained(config, build_network(config))
    assert_head_is_that_of(config, loaded.collections["params"]["rpn"])


@pytest.mark.parametrize(
    "override",
    [
        "rpn.anchors.sizes=(32.0,64.0,128.0,256.0,500.0)",
        "rpn.anchors.aspect_ratios=(0.4,1.0,2.0)",
        "rpn.anchors.offset=0.5",
        "rpn.anchors.rounding=caffe",
        "rpn.box_weights=(1.0,1.0,2.0,2.0)",
    ],
)
def test_a_head_for_other_anchors_is_refused(imported, override):
    out, _ = imported
    config = apply_overrides(read_model(out).config, [f"--config.{override}"])
    config.model.pretrained = str(out)
    with pytest.raises(UserError) as error:
        load_pretrained(config, build_network(config))
    assert str(error.value).startswith(f"config.{override.partition('=')[0]}: is ")
    assert "config.model.pretrained_head to False" in str(error.value)


def test_the_backbone_alone_serves_any_anchors(imported, capsys):
    out, _ = imported
    config = apply_overrides(read_model(out).config, ["--config.rpn.anchors.sizes=(32.0,)"])
    config.model.pretrained = str(out)
    config.model.pretrained_head = False
    loaded = load_pretrained(config, build_network(config))
    assert set(loaded.collections["params"]) == {"backbone"}
    assert "rpn/conv/bias" in loaded.unused
    said = capsys.readouterr().out
    assert said.startswith(
        f"{out}: backbone from a model file (detectron2's R-CNN on C4, model_fin"
    )
    assert "; not used: rpn/conv/bias, rpn/conv/kernel, rpn/deltas/bias and 3 more;" in said
    assert said.endswith("; drawn from the seed: rpn\n")


@pytest.mark.parametrize("override", ["model.input_convention=caffe", "model.stride_in_1x1=False"])
def test_a_model_file_for_other_input_is_refused(imported, override):
    out, _ = imported
    config = apply_overrides(read_model(out).config, [f"--config.{override}"])
    config.model.pretrained = str(out)
    with pytest.raises(UserError, match=f"^config.{override.partition('=')[0]}: is "):
        load_pretrained(config, build_network(config))


def test_a_norm_that_learns_takes_the_scale_of_a_frozen_one(imported):
    out, _ = imported
    model = read_model(out)
    model.config.model.pretrained = str(out)
    model.config.model.norm = "sync_batch_norm"
    loaded = load_pretrained(model.config, build_network(model.config)).collections
    frozen = model.collections["batch_stats"]["backbone"]["c2"]["block1"]["conv1"]["norm"]
    learning = loaded["params"]["backbone"]["c2"]["block1"]["conv1"]["norm"]
    np.testing.assert_array_equal(learning["scale"], frozen["scale"])
    model.config.model.norm = "group_norm"
    with pytest.raises(UserError, match="left over: backbone/c1/conv1/norm/mean"):
        load_pretrained(model.config, build_network(model.config))


def as_source(layout, config):
    return Source("weights", layout, arrays_as_in(layout, config), config)


def test_a_network_of_torchvision_and_its_neck():
    config = apply_overrides(source_config(TORCHVISION), NARROW_FPN)
    source = as_source(layout_called(TORCHVISION), config)
    source.arrays["rpn.head.cls_logits.bias"] = np.arange(3.0)
    source.arrays["rpn.head.bbox_pred.bias"] = np.arange(12.0)
    network = build_network(config)
    params = load_source(config, network, source).collections["params"]
    np.testing.assert_array_equal(params["rpn"]["objectness"]["bias"], [0, 1, 2])
    np.testing.assert_array_equal(
        params["neck"]["lateral3"]["kernel"][0, 0, 0, 0],
        source.arrays["backbone.fpn.inner_blocks.1.0.weight"][0, 0, 0, 0],
    )
    np.testing.assert_array_equal(
        params["neck"]["output5"]["bias"], source.arrays["backbone.fpn.layer_blocks.3.0.bias"]
    )
    turned = apply_overrides(config.copy_and_resolve_references(), ())
    turned.rpn.anchors.aspect_ratios = (0.5, 1.0, 2.0)
    head = load_source(turned, network, source).collections["params"]["rpn"]
    np.testing.assert_array_equal(head["objectness"]["bias"], [2, 1, 0])
    np.testing.assert_array_equal(head["deltas"]["bias"], [8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3])


def test_a_softmax_head_is_reordered_class_by_class():
    config = apply_overrides(
        default_config(),
        [*NARROW, "--config.model.output_stage=c1", "--config.rpn.objectness=softmax",
         "--config.rpn.anchors.sizes=(32.0,)"],
    )  # fmt: skip
    source = as_source(
        own_layout("a model file", ("backbone", "rpn"), "caffe", stride_in_1x1=False),
        config.copy_and_resolve_references(),
    )
    source.arrays["rpn/objectness/bias"] = np.arange(6.0)
    config.rpn.anchors.aspect_ratios = (2.0, 0.5, 1.0)
    head = load_source(config, build_network(config), source).collections["params"]["rpn"]
    np.testing.assert_array_equal(head["objectness"]["bias"], [2, 0, 1, 5, 3, 4])


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        C4: {
            "model.neck": None,
            "rpn.channels": 1024,
            "model.stride_in_1x1": True,
            "model.input_convention": "detectron2",
            "rpn.anchors.sizes": [32, 64, 128, 256, 512],
            "rpn.anchors.rounding": "none",
            "rpn.loss.beta": 0,
            "rpn.proposals.test.pre_nms_top_n": 6000,
            "rpn.proposals.min_size": 0,
        },
        FPN: {
            "model.neck": "fpn",
            "rpn.channels": 256,
            "model.stride_in_1x1": True,
            "rpn.anchors.sizes": [[32], [64], [128], [256], [512]],
            "rpn.proposals.test.pre_nms_top_n": 1000,
            "rpn.proposals.train.post_nms_top_n": 1000,
        },
        TORCHVISION: {
            "model.neck": "fpn",
            "model.stride_in_1x1": False,
            "model.input_convention": "torchvision",
            "rpn.anchors.rounding": "torchvision",
            "rpn.loss.beta": 1 / 9,
            "rpn.proposals.test.pre_nms_top_n": 1000,
            "rpn.proposals.train.post_nms_top_n": 2000,
            "rpn.proposals.min_size": 1e-3,
        },
    }.items(),
)
def test_each_network_brings_its_conventions(name, expected):
    config = source_config(name)
    common = {
        "data.shorter_side": 800,
        "data.longer_side": 1333,
        "rpn.anchors.aspect_ratios": [2, 1, 0.5],
        "rpn.anchors.offset": 0,
        "rpn.targets.drop_straddling": False,
        "rpn.loss.normalizer": "sampled",
        "rpn.proposals.nms_threshold": 0.7,
        "rpn.proposals.test.post_nms_top_n": 1000,
        "rpn.proposals.keep_padding": True,
    }
    fields = flatten(config)
    wanted = common | expected
    assert {field: fields[field] for field in wanted} == wanted
    build_network(config)


def test_the_epsilon_of_a_network(tmp_path):
    config = apply_overrides(default_config(), ["--config.model.backbone=resnet18"])
    config.model.output_stage = "c5"
    config.model.input_convention = "torchvision"
    arrays = arrays_as_in(layout_called("torchvision/resnet"), config)
    variance = np.float32([1e-4, 0.5, *62 * [0]])
    arrays["bn1.running_var"] = variance
    path, out = tmp_path / "resnet18.safetensors", tmp_path / "out.safetensors"
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, path
    )
    for bn_eps, expected in {None: variance + 1e-5, 0.0: variance}.items():
        import_weights(path, "resnet18", out, bn_eps=bn_eps)
        model = read_model(out)
        read = model.collections["batch_stats"]["backbone"]["c1"]["conv1"]["norm"]["var"]
        under_the_root = read + np.float32(1e-5)
        np.testing.assert_allclose(under_the_root, expected, rtol=1e-6, atol=2e-11)
        assert (under_the_root > 0).all()
    assert model.config.model.input_convention == "torchvision"
    assert model.config.model.backbone == "resnet18"
    assert set(model.collections["params"]) == {"backbone"}
    assert set(model.collections["params"]["backbone"]) == {"c1", "c2", "c3", "c4", "c5"}


@pytest.fixture(scope="module")
def faster_rcnn(tmp_path_factory):
    """A narrow Faster R-CNN in the names of torchvision."""
    config = apply_overrides(source_config(TORCHVISION), NARROW_FPN)
    arrays = arrays_as_in(layout_called(TORCHVISION), config)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    path = tmp_path_factory.mktemp("torchvision") / "coco_v1.safetensors"
    safetensors.numpy.save_file(arrays, path)
    return path, arrays["backbone.body.bn1.running_var"].astype(np.float32)


def variance_of(path):
    return read_model(path).collections["batch_stats"]["backbone"]["c1"]["conv1"]["norm"]["var"]


def test_torchvisions_epsilon_is_asked_for(faster_rcnn, tmp_path):
    path, _ = faster_rcnn
    out = tmp_path / "rpn.safetensors"
    with pytest.raises(UserError, match="give --bn_eps=0 for torchvision's COCO_V1") as error:
        import_weights(path, TORCHVISION, out, NARROW_FPN)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_torchvisions_epsilon_is_that_of_the_flag(faster_rcnn, tmp_path):
    path, variance = faster_rcnn
    out = tmp_path / "rpn.safetensors"
    said = import_weights(path, TORCHVISION, out, NARROW_FPN, bn_eps=0.0)
    assert "norms with epsilon 0" in said
    np.testing.assert_allclose(variance_of(out) + np.float32(1e-5), variance, rtol=1e-7)


def test_the_epsilon_of_a_published_file_is_known(faster_rcnn, tmp_path, monkeypatch):
    path, variance = faster_rcnn
    out = tmp_path / "rpn.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "_EPSILON_0", ("258fb6c6", digest[:8]))
    assert "norms with epsilon 0" in import_weights(path, TORCHVISION, out, NARROW_FPN)
    np.testing.assert_allclose(variance_of(out) + np.float32(1e-5), variance, rtol=1e-7)


def test_what_is_not_in_the_file_is_drawn(tmp_path):
    config = apply_overrides(
        default_config(), [*NARROW, "--config.model.output_stage=c1", "--config.seed=3"]
    )
    network = build_network(config)
    variables = initial_variables(config, network, None)
    backbone = {name: {"backbone": parts["backbone"]} for name, parts in variables.items()}
    ones = jax.tree.map(np.ones_like, backbone)
    path = tmp_path / "model.safetensors"
    write_model(path, config, ones, source="ones")
    config.model.pretrained = str(path)
    begun = initial_variables(config, network, load_pretrained(config, network))
    jax.tree.map(
        np.testing.assert_array_equal,
        begun,
        {**ones, "params": {**ones["params"], "rpn": variables["params"]["rpn"]}},
    )


@pytest.mark.parametrize(
    ("name", "out", "options", "reason"),
    [
        ("mynet", "w.safetensors", {}, "--model=mynet: is unknown; use one of alexnet, zf"),
        ("ResNet18", "w.safetensors", {}, r"did you mean resnet18\? use one of alexnet, zf"),
        (
            "resnet18",
            "w.safetensors",
            {"detector": "rpn"},
            "--detector=rpn: --model=resnet18 is a backbone alone; leave it out",
        ),
        (FPN, "w.safetensors", {}, f"--model={FPN}: .* holds a(n| ).*detectron2's R-CNN"),
        (C4, "w.npz", {}, "a model file ends in .safetensors"),
        (C4, "w.safetensors", {"bn_eps": -1.0}, "--bn_eps=-1.0: give a small number"),
        ("vgg16", "w.safetensors", {}, "config.model.backbone: the model has c1/conv1_1/bias"),
        ("resnet34", "w.safetensors", {}, "missing: backbone.res2.2.conv1"),
    ],
)
def test_what_does_not_fit_leaves_no_file(c4_file, tmp_path, name, out, options, reason):
    overrides = NARROW if name in (C4, FPN) else ()
    with pytest.raises(UserError, match=reason) as error:
        import_weights(c4_file, name, tmp_path / out, overrides, **options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_refused_before_the_file_is_read(tmp_path):
    with pytest.raises(UserError, match=r"^out\.pth: a model file ends in \.safetensors"):
        import_weights(tmp_path / "absent.pth", "resnet18", pathlib.Path("out.pth"))


def test_the_command(c4_file, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    command = ["import-weights", str(c4_file), f"--model={C4}", f"--out={out}", *NARROW]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(
        f"{out}: backbone and rpn from detectron2's R-CNN on C4"
    )
    assert read_model(out).config.model.backbone == "resnet18"
    out.unlink()
    assert main([*command, "--config.rpn.channels=16"]) == 1
    message = capsys.readouterr().err
    assert (
        "of another shape: proposal_generator.rpn_head.conv.bias (8,) instead of (16,)" in message
    )
    assert message.count("\n") == 1
    assert not out.exists()
