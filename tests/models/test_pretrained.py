import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpn_jax.errors import UserError
from rpn_jax.models import build_rpn
from rpn_jax.models.pretrained import load_vgg16_npz


@functools.cache
def shapes_of(backbone, output_stage=None):
    """The parameters' shapes: all that the reader looks at in the backbone's parameters."""
    model = build_rpn(backbone=backbone, output_stage=output_stage, head_channels=8)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def vgg16_arrays():
    """Each array holds its own number, so that a mix-up shows."""
    channels = [64, 64, 128, 128, 256, 256, 256, *6 * [512]]
    names = [f"conv{s}_{i}" for s, n in enumerate([2, 2, 3, 3, 3], 1) for i in range(1, n + 1)]
    arrays = {}
    for number, (name, inputs, outputs) in enumerate(
        zip(names, [3, *channels[:-1]], channels, strict=True)
    ):
        arrays[f"{name}_w"] = np.full((3, 3, inputs, outputs), number, np.float16)
        arrays[f"{name}_b"] = np.full(outputs, number + 0.5, np.float16)
    return arrays


@pytest.fixture
def save(tmp_path):
    def write(arrays):
        path = tmp_path / "weights.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_every_array_reaches_its_place_as_float32(save):
    params = shapes_of("vgg16")
    loaded = load_vgg16_npz(save(vgg16_arrays()), params, "caffe")
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), loaded, params
    )
    number = 0
    for stage in ("c1", "c2", "c3", "c4", "c5"):
        for name in sorted(loaded["backbone"][stage]):
            np.testing.assert_array_equal(loaded["backbone"][stage][name]["kernel"], number)
            np.testing.assert_array_equal(loaded["backbone"][stage][name]["bias"], number + 0.5)
            number += 1
    assert number == 13
    assert loaded["head"] is params["head"]


def test_a_shorter_backbone_takes_the_stages_that_it_has(save):
    loaded = load_vgg16_npz(save(vgg16_arrays()), shapes_of("vgg16", "c3"), "caffe")
    assert set(loaded["backbone"]) == {"c1", "c2", "c3"}
    np.testing.assert_array_equal(loaded["backbone"]["c3"]["conv3_3"]["kernel"], 6)


def test_the_real_file(shared_data):
    path = shared_data("../weights/vgg16_conv_bgr_f16.npz")
    params = shapes_of("vgg16")
    loaded = load_vgg16_npz(path, params, "caffe")
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    with np.load(path) as file:
        np.testing.assert_array_equal(
            loaded["backbone"]["c4"]["conv4_2"]["kernel"], file["conv4_2_w"].astype(np.float32)
        )


def refusal(path, params=None, convention="caffe"):
    """The one line of the refusal."""
    with pytest.raises(UserError) as error:
        load_vgg16_npz(path, shapes_of("vgg16") if params is None else params, convention)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("convention", ["torchvision", "centred"])
def test_other_pixels_are_refused_before_the_file_is_read(tmp_path, convention):
    message = refusal(tmp_path / "none.npz", convention=convention)
    assert message.startswith("config.model.input_convention: ")
    assert "set it to 'caffe'" in message


def test_another_model_is_refused(save):
    message = refusal(save(vgg16_arrays()), shapes_of("resnet18"))
    assert message.startswith("config.model.backbone: ")
    assert "c1/conv1/conv/kernel" in message


def test_names_and_shapes_that_differ_are_listed(save):
    arrays = vgg16_arrays()
    for name in ("conv1_2_w", "conv1_2_b", "conv2_1_w", "conv2_1_b", "conv2_2_w"):
        del arrays[name]
    arrays["fc6_w"] = np.zeros(3)
    arrays["conv1_1_w"] = arrays["conv1_1_w"].transpose(3, 2, 0, 1)
    message = refusal(save(arrays))
    assert "missing: conv1_2_w, conv1_2_b, conv2_1_w and 2 more" in message
    assert "unused: fc6_w" in message
    assert "of another shape: conv1_1_w (64, 3, 3, 3) instead of (3, 3, 3, 64)" in message


def test_integers_are_refused(save):
    arrays = vgg16_arrays()
    arrays["conv1_1_b"] = arrays["conv1_1_b"].astype(np.int8)
    assert "not of a float type: conv1_1_b" in refusal(save(arrays))


def test_values_that_are_not_finite_are_refused(save):
    arrays = vgg16_arrays()
    arrays["conv3_2_b"][7] = np.inf
    assert "not finite: conv3_2_b" in refusal(save(arrays))


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "none.npz"
    assert refusal(path).startswith(f"{path}: cannot be read (No such file")


def test_a_folder_is_no_file(tmp_path):
    assert "cannot be read" in refusal(tmp_path)


def not_an_archive(path):
    path.write_text("no archive")


def empty(path):
    path.touch()


def single_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path):
    np.savez(path, conv1_1_w=np.array([{}], object))


def cut_off(path):
    np.savez(path, conv1_1_w=np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:4000])


def one_bit_flipped(path):
    np.savez(path, conv1_1_w=np.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[4000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "write", [not_an_archive, empty, single_array, pickled, cut_off, one_bit_flipped]
)
def test_a_file_that_is_no_archive_of_arrays_is_refused(tmp_path, write):
    path = tmp_path / "weights.npz"
    write(path)
    assert "damaged or not an .npz" in refusal(path)
