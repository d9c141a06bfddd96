"""Weight files of every format: what torch wrote itself, what is damaged, and what is hostile."""

import collections
import io
import os
import pathlib
import pickle
import struct
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from rpn_jax.errors import UserError
from rpn_jax.weights import bounds
from rpn_jax.weights.files import read_arrays
from rpn_jax.weights.model_file import is_model_file

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("name", ["state_dict.pth", "state_dict_legacy.pth", "checkpoint.pth"])
def test_what_torch_wrote(name):
    arrays = read_arrays(FIXTURES / name)
    storage = np.arange(24, dtype=np.float32)
    expected = {
        "kernel": storage[:12].reshape(3, 4).T,
        "shared": storage[12:].reshape(2, 3, 2),
        "half": np.array([0.5, -2.0], np.float16),
        "brain": np.array([1.5, 3.0], ml_dtypes.bfloat16),
        "double": np.array([1e-12]),
        "num_batches_tracked": np.array(7),
        "parameter": np.array([[1.0]], np.float32),
    }
    assert list(arrays) == list(expected)
    for key, array in expected.items():
        assert arrays[key].dtype == array.dtype
        np.testing.assert_array_equal(arrays[key], array)


def test_safetensors_and_npz(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b.c": np.ones(2, np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **arrays)
    for name in ("w.safetensors", "w.npz"):
        read = read_arrays(tmp_path / name)
        assert read.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(read[key], array)
            assert read[key].dtype == array.dtype


PICKLED = {
    "kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
    "turned": np.arange(24, dtype=np.int64).reshape(2, 3, 4).transpose(1, 2, 0),
    "big endian": np.arange(3, dtype=">f8"),
    "flags": np.array([True, False]),
    "scalar": np.array(2.0),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_a_pickle_of_numpy_arrays(tmp_path, protocol, core):
    if core == b"numpy.core" and protocol != 2:
        pytest.skip("only protocol 2 writes names without their length")
    path = tmp_path / "w.pkl"
    tree = {
        "model": collections.OrderedDict(PICKLED, note="no array"),
        "__author__": "a zoo",
        "matching_heuristics": True,
    }
    path.write_bytes(pickle.dumps(tree, protocol).replace(b"numpy._core", core))
    arrays = read_arrays(path)
    assert list(arrays) == list(PICKLED)
    for key, array in PICKLED.items():
        assert arrays[key].dtype == array.dtype
        np.testing.assert_array_equal(arrays[key], array)


def keras_legacy(group, layers):
    """As Keras up to version 2 writes weights, and later ones a model in an .h5 file."""
    group.attrs["layer_names"] = [name.encode() for name in layers]
    for layer, arrays in layers.items():
        group.create_group(layer).attrs["weight_names"] = [name.encode() for name in arrays]
        for name, array in arrays.items():
            group[layer][name] = array


def test_what_keras_writes(tmp_path):
    kernel, bias = np.float32([[1, 2]]), np.float32([3])
    layers = {
        "input_1": {},
        "conv1/bn": {"conv1/bn/gamma:0": kernel},
        "conv1_conv": {"conv1_conv/kernel:0": kernel, "conv1_conv/bias:0": bias},
        "block1_conv1": {"block1_conv1_W_1:0": kernel},
    }
    expected = {
        "conv1/bn/gamma": kernel,
        "conv1_conv/kernel": kernel,
        "conv1_conv/bias": bias,
        "block1_conv1/block1_conv1_W_1": kernel,
    }
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        keras_legacy(file, layers)
    with h5py.File(tmp_path / "model.hdf5", "w") as file:
        keras_legacy(file.create_group("model_weights"), layers)
    with h5py.File(tmp_path / "keras_3.weights.h5", "w") as file:
        for kind, layer in {"conv2d": "conv1_conv", "conv2d_1": "conv2_conv"}.items():
            variables = file.create_group(f"layers/{kind}/vars")
            variables.attrs["name"] = layer
            variables["0"], variables["1"] = kernel, bias
    numbered = {
        f"conv{i}_conv/{j}": array for i in (1, 2) for j, array in enumerate([kernel, bias])
    }
    for name, arrays in {
        "weights.h5": expected,
        "model.hdf5": expected,
        "keras_3.weights.h5": numbered,
    }.items():
        read = read_arrays(tmp_path / name)
        assert read.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(read[key], array)


def refusal(path):
    with pytest.raises(UserError) as error:
        read_arrays(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


class Command:
    """A pickle of this runs a command when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def torch_zip(path, pickled, storages=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickled)
        archive.writestr("w/byteorder", "little")
        for key, content in storages:
            archive.writestr(f"w/data/{key}", content)


@pytest.mark.parametrize("kind", ["w.pth", "legacy.pth", "w.pkl"])
def test_a_hostile_pickle_runs_nothing(tmp_path, kind):
    path, marker = tmp_path / kind, tmp_path / "ran"
    hostile = pickle.dumps({"a": Command(marker)}, protocol=2)
    pickle.loads(hostile)
    assert marker.exists()  # it would
    marker.unlink()
    if kind == "w.pth":
        torch_zip(path, hostile)
    else:
        path.write_bytes(hostile)
    message = refusal(path)
    assert "posix.system" in message
    assert "not done" in message
    assert not marker.exists()


@pytest.mark.parametrize("harmless", [collections.Counter("a"), io.BytesIO, getattr])
def test_whatever_is_no_tensor_is_refused_by_name(tmp_path, harmless):
    path = tmp_path / "w.pth"
    torch_zip(path, pickle.dumps({"a": harmless}, protocol=2))
    assert "wants to call" in refusal(path)
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"model": PICKLED, "extra": harmless}))
    assert "wants to call" in refusal(path)


def tensor_pickle(offset, shape, strides, count):
    """The instructions for {"a": a tensor of floats}, also such as torch would never write."""

    def text(string):
        return b"X" + struct.pack("<I", len(string)) + string.encode()

    def numbers(*values):
        return b"".join(b"I%d\n" % value for value in values)

    def tuple_of(*parts):
        return b"(" + b"".join(parts) + b"t"

    storage = tuple_of(
        text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), numbers(count)
    )
    arguments = tuple_of(
        storage + b"Q",
        numbers(offset),
        tuple_of(numbers(*shape)),
        tuple_of(numbers(*strides)),
        b"\x89N",
    )
    return b"\x80\x02}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_a_view_of_a_storage(tmp_path):
    path = tmp_path / "w.pth"
    content = np.arange(6, dtype=np.float32).tobytes()
    torch_zip(path, tensor_pickle(1, (2, 2), (1, 2), 6), [("0", content)])
    np.testing.assert_array_equal(read_arrays(path)["a"], [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "count"),
    [
        (4, (2, 2), (1, 2), 6),  # beyond the storage
        (-1, (2,), (1,), 6),
        (3, (2,), (-1,), 6),
        (0, (10**9,), (0,), 6),  # larger than the storage
        (0, (6,), (1,), 600),  # the storage is not as large as it says
        (0, (6,), (1, 1), 6),
    ],
)
def test_a_view_that_cannot_be_is_refused(tmp_path, offset, shape, strides, count):
    path = tmp_path / "w.pth"
    content = np.arange(6, dtype=np.float32).tobytes()
    torch_zip(path, tensor_pickle(offset, shape, strides, count), [("0", content)])
    assert "damaged" in refusal(path)


def test_a_missing_file_and_a_folder_and_another_suffix(tmp_path):
    for suffix in (".npz", ".safetensors", ".pth", ".pkl", ".h5"):
        assert "cannot be read (No such file" in refusal(tmp_path / f"none{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        assert "cannot be read" in refusal(tmp_path / f"folder{suffix}")
    assert "cannot be read (Is a directory); give the path of a file" in refusal(tmp_path)
    assert "cannot be read (No such file" in refusal(tmp_path / "weights.h6")
    (tmp_path / "weights.h6").touch()
    assert ".safetensors" in refusal(tmp_path / "weights.h6")


def test_a_file_without_arrays(tmp_path):
    safetensors.numpy.save_file({}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {}}))
    torch_zip(tmp_path / "w.pth", pickle.dumps({}, protocol=2))
    for path in tmp_path.iterdir():
        assert refusal(path) == f"{path}: holds no arrays; give a file of weights"


def no_archive(path):
    path.write_text("no archive")


def empty(path):
    path.touch()


def without_tensors(path):
    torch_zip(path, pickle.dumps({"epoch": 3}, protocol=2))


def no_dict(path):
    torch_zip(path, pickle.dumps([1, 2], protocol=2))


def no_pickle(path):
    torch_zip(path, b"\x80\x02)R.")


def stored_elsewhere(path):
    torch_zip(path, tensor_pickle(0, (1,), (1,), 1))


def cut_off_zip(path):
    path.write_bytes((FIXTURES / "state_dict.pth").read_bytes()[:2500])


def cut_off_legacy(path):
    path.write_bytes((FIXTURES / "state_dict_legacy.pth").read_bytes()[:-5])


def encrypted(path):
    torch_zip(path, tensor_pickle(0, (1,), (1,), 1), [("0", bytes(4))])
    content = bytearray(path.read_bytes())
    for header, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = content.find(header)
        while start >= 0:
            content[start + place] |= 1
            start = content.find(header, start + 4)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "write",
    [
        no_archive, empty, without_tensors, no_dict, no_pickle, stored_elsewhere, cut_off_zip,
        cut_off_legacy, encrypted,
    ],
)  # fmt: skip
def test_a_damaged_pth_is_refused(tmp_path, write):
    path = tmp_path / "w.pth"
    write(path)
    assert "damaged or not a state dict" in refusal(path)


def objects(path):
    path.write_bytes(pickle.dumps({"a": np.array([{}, None], object)}))


def larger_than_it_says(path):
    content = pickle.dumps({"a": np.zeros((3, 3))}, protocol=2)
    path.write_bytes(content.replace(b"K\x03K\x03\x86", b"K\x03K\x7f\x86"))


def other_encoding(path):
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.")


def cut_off_pickle(path):
    path.write_bytes(pickle.dumps(PICKLED)[:-9])


def strings(path):
    path.write_bytes(pickle.dumps({"model": {"a": "b"}}))


@pytest.mark.parametrize(
    "write",
    [no_archive, empty, objects, larger_than_it_says, other_encoding, cut_off_pickle, strings],
)
def test_a_damaged_pkl_is_refused(tmp_path, write):
    path = tmp_path / "w.pkl"
    write(path)
    assert "damaged or not a .pkl file of NumPy arrays" in refusal(path)


def cut_off_hdf5(path):
    with h5py.File(path, "w") as file:
        keras_legacy(file, {"a": {"a/kernel:0": np.zeros(10_000)}})
    path.write_bytes(path.read_bytes()[:50_000])


def names_without_arrays(path):
    with h5py.File(path, "w") as file:
        file.create_group("a").attrs["weight_names"] = [b"a/kernel:0"]


def not_by_keras(path):
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3)


@pytest.mark.parametrize(
    "write", [no_archive, empty, cut_off_hdf5, names_without_arrays, not_by_keras]
)
def test_a_damaged_h5_is_refused(tmp_path, write):
    path = tmp_path / "w.h5"
    write(path)
    assert "damaged or not an .h5 file that Keras wrote" in refusal(path)


def header_too_long(path):
    path.write_bytes(struct.pack("<Q", 10**6) + b"{}")


def cut_off_safetensors(path):
    safetensors.numpy.save_file({"a": np.arange(1000.0)}, path)
    path.write_bytes(path.read_bytes()[:4000])


@pytest.mark.parametrize("write", [no_archive, empty, header_too_long, cut_off_safetensors])
def test_a_damaged_safetensors_is_refused(tmp_path, write):
    path = tmp_path / "w.safetensors"
    write(path)
    assert "damaged or not a .safetensors" in refusal(path)


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
    "write", [no_archive, empty, single_array, pickled, cut_off, one_bit_flipped]
)
def test_a_damaged_npz_is_refused(tmp_path, write):
    path = tmp_path / "w.npz"
    write(path)
    assert "damaged or not an .npz" in refusal(path)


SECRET = b"not for others " * 20


@pytest.fixture
def outside(tmp_path):
    """A file beside the weights that nobody may read, and its arrays as HDF5 if it were one."""
    path = tmp_path / "outside.h5"
    with h5py.File(path, "w") as file:
        file["secret"] = np.frombuffer(SECRET[:256], np.float32)
    return path


def stored_outside(group, outside):
    group.create_dataset("bias", (64,), "f4", external=[(str(outside), 0, 256)])


def linked_outside(group, outside):
    group["bias"] = h5py.ExternalLink(str(outside), "/secret")


def linked_softly(group, outside):
    group.file["far"] = h5py.ExternalLink(str(outside), "/")
    group["bias"] = h5py.SoftLink("/far/secret")


def virtual(group, outside):
    layout = h5py.VirtualLayout((64,), "f4")
    layout[:] = h5py.VirtualSource(str(outside), "secret", (64,))
    group.create_virtual_dataset("bias", layout)


@pytest.mark.parametrize("keras", [2, 3])
@pytest.mark.parametrize(
    ("hide", "what"),
    [
        (stored_outside, "conv/bias is stored in another file (OUTSIDE)"),
        (linked_outside, "conv/bias is an external link (OUTSIDE, /secret)"),
        (linked_softly, "conv/bias is a soft link (/far/secret)"),
        (virtual, "conv/bias is a virtual dataset"),
    ],
)
def test_nothing_outside_an_h5_is_read(tmp_path, outside, keras, hide, what):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("conv")
        if keras == 2:
            group.attrs["weight_names"] = [b"bias:0"]
        else:
            group.attrs["name"] = "conv"
        hide(group, outside)
    with h5py.File(path) as file:  # HDF5 itself would read it
        assert np.asarray(file["conv/bias"]).any()
    message = refusal(path)
    if hide is not linked_softly:
        assert what.replace("OUTSIDE", str(outside)) in message
    else:  # the external link that it goes through is as bad
        assert what in message or f"far is an external link ({outside}, /)" in message


def test_a_hidden_array_is_refused_though_nothing_uses_it(tmp_path, outside):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        keras_legacy(file, {"conv": {"conv/bias:0": np.ones(3, np.float32)}})
        linked_outside(file.create_group("other"), outside)
    assert "other/bias is an external link" in refusal(path)


def test_groups_in_a_circle_end(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        keras_legacy(file, {"conv": {"conv/bias:0": np.ones(3, np.float32)}})
        file["conv"]["again"] = file["/"]
    assert list(read_arrays(path)) == ["conv/bias"]
    with h5py.File(path, "a") as file:
        file.create_group("a/" * 200)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".h5", ".pth", ".pkl"])
def test_a_pipe_is_no_weight_file(tmp_path, suffix):
    path = tmp_path / f"pipe{suffix}"
    os.mkfifo(path)
    assert "cannot be read (a pipe or a device)" in refusal(path)
    assert not is_model_file(path)


def nested_tuple(depth):
    """A tuple of twice the same tuple of ...: 2**depth steps to hash, compare or print it."""
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def tuple_key():
    """{nested: None}, by instructions: pickle itself would never end."""
    content = pickle.dumps(nested_tuple(60), 2)
    assert content[-1:] == b"."
    return content[:2] + b"}" + content[2:-1] + b"Ns."


def tuple_keys():
    content = pickle.dumps(nested_tuple(60), 2)
    return content[:2] + b"}(" + content[2:-1] + b"Nu."


def tuple_in_dict_op():
    content = pickle.dumps(nested_tuple(60), 2)
    return content[:2] + b"(" + content[2:-1] + b"Nd."


def tuple_in_ordered_dict():
    pairs = pickle.dumps([[nested_tuple(60), 1]], 2)
    return b"\x80\x02ccollections\nOrderedDict\n" + pairs[2:-1] + b"\x85R."


def tuple_in_a_set():
    content = pickle.dumps(nested_tuple(60), 4)
    frame = 11  # PROTO and FRAME
    return b"\x80\x04\x8f(" + content[frame:-1] + b"\x90."


def tuple_as_a_shape():
    twice = pickle.dumps((nested_tuple(60), nested_tuple(60)), 2)[2:-1]
    return tensor_pickle(0, (1,), (1,), 1).replace(b"(I1\nt", twice, 1)


@pytest.mark.parametrize(
    "content",
    [
        tuple_key, tuple_keys, tuple_in_dict_op, tuple_in_ordered_dict, tuple_in_a_set,
        tuple_as_a_shape,
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["w.pkl", "w.pth", "legacy.pth"])
def test_nested_tuples_cost_nothing(tmp_path, content, kind):
    path = tmp_path / kind
    if kind == "w.pth":
        torch_zip(path, content(), [("0", bytes(4))])
    else:
        path.write_bytes(content())
    assert "damaged or not" in refusal(path) or "wants to call" in refusal(path)


def test_a_small_file_cannot_take_all_memory(tmp_path):
    count = 2**28  # 1 GiB as float32
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("conv")
        group.attrs["weight_names"] = [b"kernel"]
        group.create_dataset("kernel", (2, count), "f4", chunks=(1, 2**20), compression="gzip")
    assert "more than 1.0 GiB of memory" in refusal(path)
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(2):
            archive.writestr(f"{i}.npy", b"")
            archive.getinfo(f"{i}.npy").file_size = 4 * count - 1
    assert "more than 1.0 GiB of memory" in refusal(path)


def test_views_of_one_storage_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "_SMALL", 1000)
    monkeypatch.setattr(bounds, "_FACTOR", 0)
    path = tmp_path / "w.pth"
    torch_zip(path, tensor_pickle(0, (100,), (0,), 100), [("0", bytes(400))])
    np.testing.assert_array_equal(read_arrays(path)["a"], np.zeros(100))
    torch_zip(path, tensor_pickle(0, (100,), (0,), 100), [("0", bytes(400)), ("1", bytes(300))])
    assert "its arrays would take more than" in refusal(path)


def test_names_in_a_refusal_cannot_write_to_the_terminal(tmp_path):
    path = tmp_path / "a\x1b[31m\nb.pkl"
    path.write_bytes(b"\x80\x02cos\x1b]0;title\x07\nsystem\n.")
    with pytest.raises(UserError) as error:
        read_arrays(path)
    assert str(error.value).isprintable()
    assert r"a\x1b[31m\nb.pkl: is not" in str(error.value)
