"""`export`, `export-weights` and --weights as a user meets them. Nothing here is compiled."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from training.small import small_config

from rpn_jax.__main__ import main
from rpn_jax.training.build import build_network
from rpn_jax.weights.model_file import read_model, write_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model file of a small network; its arrays are zeros."""
    config = small_config()
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(build_network(config).init, jax.random.key(0), image)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    write_model(path, config, zeros, source="a test", step=5)
    return path


@pytest.fixture
def fails(capsys):
    """Runs a command that must fail and returns the one line that it says."""

    def run(*argv: object) -> str:
        assert main(list(map(str, argv))) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    return run


def test_a_function_is_written_whole_with_the_overrides(weights, tmp_path, capsys):
    out = tmp_path / "new" / "proposals.jax"
    flags = "--image_size=32x48", "--batch_size=2", "--platforms=cpu,tpu"
    counts = "--config.rpn.proposals.test.post_nms_top_n=7"
    assert main(["export", f"--weights={weights}", f"--out={out}", *flags, counts]) == 0
    assert f"{out}: images 2 x 32 x 48 x 3, for cpu,tpu" in capsys.readouterr().out
    assert list(out.parent.iterdir()) == [out]
    function = jax.export.deserialize(out.read_bytes())
    assert function.platforms == ("cpu", "tpu")
    assert [aval.shape for aval in function.in_avals] == [(2, 32, 48, 3), (2, 2)]
    assert [aval.shape for aval in function.out_avals] == [(2, 7, 4), (2, 7), (2, 7)]


def test_weights_are_written_with_the_overrides(weights, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    flags = f"--weights={weights}", f"--out={out}", "--config.rpn.proposals.nms_threshold=0.5"
    assert main(["export-weights", *flags]) == 0
    assert str(out) in capsys.readouterr().out
    model = read_model(out)
    assert model.config.rpn.proposals.nms_threshold == 0.5
    assert model.step == 5


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--image_size=32"], "--image_size=32: give height x width"),
        (["--image_size=32x48", "--batch_size=0"], "--batch_size=0: give at least 1"),
        (["--image_size=32x48", "--platforms=cpu,metal"], "platforms: 'metal' is unknown"),
        (["--image_size=32x48", "--step=3"], "--step=3: a model file holds one step"),
        (
            ["--image_size=32x48", "--config.model.norms=x"],
            "--config.model.norms: there is no such",
        ),
    ],
)
def test_bad_flags_of_export(fails, weights, tmp_path, flags, reason):
    out = tmp_path / "proposals.jax"
    assert reason in fails("export", f"--weights={weights}", f"--out={out}", *flags)
    assert not out.exists()


def test_a_place_that_cannot_be_written(fails, weights):
    line = fails("export-weights", f"--weights={weights}", f"--out={weights / 'a.safetensors'}")
    assert f"a.safetensors: cannot be written ({weights} is no folder); give another place" in line


def test_weights_that_are_not_there_or_no_model(fails, tmp_path):
    path = tmp_path / "w.safetensors"
    command = "evaluate", f"--weights={path}", f"--out={tmp_path / 'out'}"
    assert fails(*command).startswith(f"{path}: cannot be read (No such file or directory)")
    safetensors.numpy.save_file({"a": np.zeros(3)}, path)
    assert fails(*command).startswith(f"{path}: holds arrays, but is not a model file")
    path.write_bytes(path.read_bytes()[:-1])
    assert fails(*command).startswith(f"{path}: is damaged")
    assert not (tmp_path / "out").exists()


def test_a_backbone_alone_proposes_nothing(fails, weights, tmp_path):
    model, path, image = read_model(weights), tmp_path / "b.safetensors", tmp_path / "a.jpg"
    backbone = {"params": {"backbone": model.collections["params"]["backbone"]}}
    write_model(path, model.config, backbone, source="a test")
    image.write_bytes(b"not read")
    line = fails("propose", f"--weights={path}", image, f"--out={tmp_path / 'out'}")
    assert line.startswith(f"{path}: holds a backbone alone")


def test_evaluate_is_told_where_to_write(fails, weights):
    assert fails("evaluate", f"--weights={weights}").startswith("--out: is not given")


@pytest.mark.parametrize("command", ["evaluate", "propose", "export", "export-weights"])
@pytest.mark.parametrize("flags", [[], ["--workdir=a", "--weights=b.safetensors"]])
def test_one_of_workdir_and_weights(command, flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([command, *flags, "--out=c.safetensors"])
    error = capsys.readouterr().err
    assert "--workdir" in error
    assert "--weights" in error
