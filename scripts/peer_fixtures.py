"""Writes tests/fixtures: what torch and torchvision make of the weights of tests/seeded_weights.py.

    PYTHON scripts/peer_fixtures.py

PYTHON has torch and torchvision (2.13 and 0.28 wrote those in the project); neither is needed for
anything else. The tests hold this project against the files.
"""

import pathlib
import sys

import numpy as np
import torch
import torchvision

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from seeded_weights import seeded_array, seeded_image  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures"
SIZES = ((61, 75), (64, 96))  # odd and even, which strides and pools treat differently


def main():
    """Writes all files anew."""
    FIXTURES.mkdir(exist_ok=True)
    write_state_dicts()
    for name in ("resnet18", "resnet50", "vgg16"):
        write_features(name)


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


@torch.no_grad()
def write_features(name):
    """The last features that a region proposal network uses; of VGG-16 at the odd size alone."""
    model = torchvision.models.get_model(name).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(seeded_array(key, tuple(tensor.shape))))
    if name == "vgg16":
        features = model.features[:-1]  # conv5_3 and its ReLU, without the last pool
    else:
        features = torch.nn.Sequential(*list(model.children())[:7])  # to layer3
    arrays = {}
    for height, width in SIZES[:1] if name == "vgg16" else SIZES:
        image = torch.from_numpy(seeded_image(height, width)).permute(2, 0, 1)
        arrays[f"{height}x{width}"] = features(image[None])[0].permute(1, 2, 0).numpy()
    np.savez_compressed(FIXTURES / f"{name}_features.npz", **arrays)


if __name__ == "__main__":
    main()
