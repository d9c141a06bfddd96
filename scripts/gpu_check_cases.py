"""Single checks of `gpu_check.py`, each in a process of its own: `KIND OPTIONS --json=FILE`.

The figures go to FILE, with an "error" where what was computed is not right.
"""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmark_cases import CPU, GPU, draw_images, draw_objects
from gpu_check_details import loader, profile

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = {
    "rpn": ("shapes", ()),
    "faster_rcnn": ("shapes_faster_rcnn", ("box.class_names=('a','b','c')",)),
    "mask_rcnn": ("shapes_mask_rcnn", ("box.class_names=('a','b','c')",)),
}
# Steps that repeat and are compared: by SGD, which adds nothing of its own to rounding.
SGD = ("optimizer.name=sgd", "optimizer.learning_rate=1e-3", "optimizer.schedule=step")
QUICK = ("data.shorter_side=64", "data.longer_side=64", "model.output_stage=c2")
TOLERANCE = 1e-3  # of gradients, beside the largest of their array
STEPS = {False: 20, True: 2}  # by `quick`


def devices(quick: bool) -> dict[str, Any]:
    """What is here: versions, and the device that JAX uses."""
    import jax

    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "torch")
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    platform = CPU if device.platform == "cpu" else GPU
    missing = {"error": "JAX sees no GPU; --quick tries this out on a CPU"}
    return {
        **(missing if platform == CPU and not quick else {}),
        "platform": platform,
        "devices": [str(each) for each in jax.devices()],
        "kind": device.device_kind,
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in packages},
        "runtime": " ".join(device.client.platform_version.split()),
        "nvidia_smi": _printed(query),
    }


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _printed(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


class Trained:
    """A detector with its state and a batch, on any device."""

    def __init__(self, config_name: str, *fields: str, batch: int = 2):
        import jax

        from rpn_jax.data.canvases import largest_canvas_hw
        from rpn_jax.runs.config import random_key
        from rpn_jax.runs.config_files import load_config
        from rpn_jax.training.build import build_detector, build_train_step, new_state
        from rpn_jax.training.optimizer import build_optimizer

        flags = [f"--config.{field}" for field in (*fields, f"batch_size={batch}")]
        self.config = load_config(config_name, flags)
        self.detector = build_detector(self.config)
        schedule, optimizer = build_optimizer(self.config)
        self._step = build_train_step(self.config, self.detector, optimizer, schedule)
        with jax.default_device(jax.devices("cpu")[0]):  # the same numbers for all devices
            state = new_state(self.config, self.detector.network, optimizer)
            self.state, self.key = jax.device_get((state, random_key(self.config)))
        self.hw = largest_canvas_hw(self.config.data.shorter_side, self.config.data.longer_side)
        self.batch = _batch(self.config, batch, self.hw)

    def update(self, device) -> Callable:
        """Returns the compiled step `state -> (state, metrics)` on a device."""
        import jax

        from rpn_jax.runs.devices import AXIS

        step = jax.vmap(self._step, in_axes=(None, 0, None), out_axes=(None, None), axis_name=AXIS)
        step = jax.jit(step)
        batch = jax.tree.map(lambda x: x[None], self.batch)
        batch, key = jax.device_put((batch, self.key), device)
        return lambda state: step(state, batch, key)

    def losses(self, device, steps: int) -> tuple[list[float], Any]:
        """Returns the losses of some steps on a device, and the last state."""
        import jax

        update, state = self.update(device), jax.device_put(self.state, device)
        found = []
        for _ in range(steps):
            state, metrics = update(state)
            found.append(float(metrics["loss"]))
        return found, jax.device_get(state)


def _batch(config, size: int, hw: tuple[int, int]):
    """Returns images of noise with eight objects each, labelled and masked if the config asks."""
    import numpy as np

    from rpn_jax.typing import GroundTruth, Images

    boxes = draw_objects(8, hw, size)
    present = np.ones(boxes.shape[:2], bool)
    labels = masks = None
    if "box" in config:
        labels = np.arange(present.size).reshape(present.shape) % len(config.box.class_names) + 1
    if "mask" in config:
        half = 255 * np.tri(config.mask.cut_size, dtype=np.uint8)
        masks = np.broadcast_to(half, (*present.shape, *half.shape)).copy()
    labels = None if labels is None else labels.astype(np.int32)
    return Images(
        images=draw_images(size, hw),
        image_hw=np.tile(np.float32([hw]), (size, 1)),
        image_index=np.arange(size, dtype=np.int32),
        ground_truth=GroundTruth(boxes, present, ~present, labels, masks),
    )


def _trained(model: str, quick: bool, *fields: str) -> Trained:
    config, more = CONFIGS[model]
    return Trained(config, *more, *SGD, *(QUICK if quick else ()), *fields)


def step(model: str, quick: bool) -> dict[str, Any]:
    """One train step and one prediction, both finite."""
    return _step_and_prediction(_trained(model, quick))


def whole(config: str) -> dict[str, Any]:
    """The same of a real config at its size, in bfloat16, two images."""
    return _step_and_prediction(Trained(config, "model.dtype=bfloat16"))


def _step_and_prediction(trained: Trained) -> dict[str, Any]:
    import jax
    import numpy as np

    from rpn_jax.training.predict_steps import make_predict_step

    device = jax.devices()[0]
    begun = time.perf_counter()
    (loss,), state = trained.losses(device, 1)
    after_step = time.perf_counter()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    predict = jax.jit(make_predict_step(trained.detector))
    images = trained.batch.images, trained.batch.image_hw
    found = jax.device_get(predict(*jax.device_put((variables, images), device)))
    finite = np.isfinite(loss) and all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, found.boxes))
    )
    return {
        "loss": loss,
        "found": int(found.valid.sum()),
        "first_step_s": after_step - begun,
        "first_prediction_s": time.perf_counter() - after_step,
        **({} if finite else {"error": f"not finite: the loss is {loss}"}),
    }


def repeat(model: str, quick: bool) -> dict[str, Any]:
    """Steps of `config.deterministic`, compiled and run twice: the same bits?"""
    from rpn_jax.runs.config_files import load_config
    from rpn_jax.runs.determinism import apply_determinism

    apply_determinism(load_config(CONFIGS[model][0], ["--config.deterministic=true"]))
    import jax

    digests, last = [], []
    for _ in range(2):
        jax.clear_caches()
        losses, state = _trained(model, quick).losses(jax.devices()[0], STEPS[quick])
        leaves = [leaf.tobytes() for leaf in jax.tree.leaves(state)]
        digests.append(hashlib.sha256(b"".join(leaves)).hexdigest()[:16])
        last.append(losses[-1])
    steps = STEPS[quick]
    differ = {"error": f"two runs of {steps} steps differ"} if len({*digests}) > 1 else {}
    return {"steps": steps, "digests": digests, "last_losses": last, **differ}


def gradients(model: str, quick: bool) -> dict[str, Any]:
    """The gradient of the loss here and on the CPU, in float32."""
    import jax
    import numpy as np

    jax.config.update("jax_default_matmul_precision", "float32")
    trained = _trained(model, quick)
    here, there = (
        _gradient(trained, device) for device in (jax.devices()[0], jax.devices("cpu")[0])
    )
    apart = {}
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(here), jax.tree.leaves(there), strict=True
    ):
        largest = np.abs(theirs).max()
        name = jax.tree_util.keystr(path)
        apart[name] = float(np.abs(ours - theirs).max() / largest) if largest else 0.0
    worst = max(apart, key=apart.get)
    wrong = {name: value for name, value in apart.items() if not value <= TOLERANCE}
    figures = {"arrays": len(apart), "worst": worst, "difference": apart[worst]}
    if wrong:
        figures["error"] = (
            f"{len(wrong)} of {len(apart)} arrays differ, {worst} by {apart[worst]:.1e}"
        )
    return figures


def _gradient(trained: Trained, device):
    import jax

    from rpn_jax.runs.devices import AXIS
    from rpn_jax.training.step import image_keys

    def loss(params, batch_stats, key, batch):
        keys = image_keys(key, 0, 0, len(batch.images))
        variables = {"params": params, "batch_stats": batch_stats}
        return trained.detector.losses(variables, keys, batch, train=True).of_image.mean()

    of_one = jax.vmap(jax.grad(loss), in_axes=(None, None, None, 0), axis_name=AXIS)
    state, batch = trained.state, jax.tree.map(lambda x: x[None], trained.batch)
    given = jax.device_put((state.params, state.batch_stats, trained.key, batch), device)
    return jax.device_get(jax.jit(of_one)(*given))


def losses(model: str, quick: bool) -> dict[str, Any]:
    """The losses of some steps here and on the CPU: the first alike, later ones drift apart."""
    import jax

    jax.config.update("jax_default_matmul_precision", "float32")
    trained = _trained(model, quick)
    devices = jax.devices()[0], jax.devices("cpu")[0]
    here, there = (trained.losses(device, STEPS[quick])[0] for device in devices)
    apart = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(here, there, strict=True)]
    figures = {"first": here[0], "last": here[-1], "last_on_cpu": there[-1]}
    figures |= {"difference_of_first": apart[0], "largest_difference": max(apart)}
    if not apart[0] <= TOLERANCE:
        figures["error"] = f"the first loss is {here[0]}, {there[0]} on the CPU"
    return figures


def tests(path: str, workers: int) -> dict[str, Any]:
    """The project's own tests in a folder or file."""
    command = [sys.executable, "-m", "pytest", f"-n{workers}", "--tb=line", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:], done.stderr[-1000:])
    counts = dict(
        (kind, int(n))
        for n, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    )
    names = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    figures: dict[str, Any] = {**counts, "failures": names}
    if done.returncode:
        figures["error"] = (
            f"{len(names)} failed: {', '.join(names[:3])}" if names else "pytest failed"
        )
    return figures


KINDS = {
    "devices": devices,
    "step": step,
    "whole": whole,
    "repeat": repeat,
    "gradients": gradients,
    "losses": losses,
    "tests": tests,
    "loader": loader,
    "profile": profile,
}


def main() -> None:
    """Runs one check."""
    kind, options, out = sys.argv[1:]
    figures = KINDS[kind](**json.loads(options))
    pathlib.Path(out.removeprefix("--json=")).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
