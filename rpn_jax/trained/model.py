"""A trained network as a Python object that proposes, detects, evaluates and saves.

model = rpn_jax.load("runs/shapes_faster_rcnn")
boxes, scores, labels, names, _ = model.detect(image)
boxes, scores, _ = model.propose(image)

A network with a mask head finds masks too: `model.detect(image).masks[0]` is a bool array (H, W).
"""

import importlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from rpn_jax.data.images import image_files
from rpn_jax.data.masks import Masks
from rpn_jax.detectors.detector import Detector
from rpn_jax.errors import UserError
from rpn_jax.evaluation.figures import Figures
from rpn_jax.files import check_out, user_path
from rpn_jax.hub import local_file
from rpn_jax.runs.config_files import name_dataset
from rpn_jax.runs.fields import LEFT_OUT, check_config
from rpn_jax.trained.export import pasting_of, write_function
from rpn_jax.trained.load import (
    check_detects,
    check_proposes,
    load_trained,
    trained_config,
)
from rpn_jax.training.evaluate import detector_results, evaluate, measures_masks
from rpn_jax.training.predict import ImageSource, PredictedImage, Predictor
from rpn_jax.training.splits import open_split, with_proposals
from rpn_jax.weights.model_file import write_model

Path = str | os.PathLike


class Found(NamedTuple):
    """The boxes found in one image.

    Fields:
      boxes: x1, y1, x2, y2 in pixels of the given image, by falling score.
      scores: probability that each box holds an object.
      path: the image's file; None for an array.
    """

    boxes: Float[np.ndarray, "P 4"]
    scores: Float[np.ndarray, " P"]
    path: pathlib.Path | None = None


class Detected(NamedTuple):
    """The objects found in one image.

    Fields:
      boxes: x1, y1, x2, y2 in pixels of the given image, by falling score.
      scores: probability of each box's class.
      labels: class of each box, as a place in `Model.class_names`.
      names: its name.
      path: the image's file; None for an array.
    """

    boxes: Float[np.ndarray, "D 4"]
    scores: Float[np.ndarray, " D"]
    labels: Int[np.ndarray, " D"]
    names: tuple[str, ...]
    path: pathlib.Path | None = None

    def to_supervision(self) -> Any:
        """Returns `supervision.Detections`, with the names as `data["class_name"]`.

        Raises:
          UserError: supervision is not installed.
        """
        return _to_supervision(self)


class Segmented(NamedTuple):
    """The objects that a network with a mask head found in one image.

    Fields:
      boxes, scores, labels, names: see `Detected`.
      masks: of each object, decoded when they are asked for: `masks[0]` is a bool array (H, W) of
        the given image's size, `np.asarray(masks)` has all, (D, H, W), as torchvision and
        supervision have them, and `to_coco` of them gives COCO's runs, for `json.dump` and
        pycocotools. See `rpn_jax.data.masks.Masks`.
      path: the image's file; None for an array.
    """

    boxes: Float[np.ndarray, "D 4"]
    scores: Float[np.ndarray, " D"]
    labels: Int[np.ndarray, " D"]
    names: tuple[str, ...]
    masks: Masks
    path: pathlib.Path | None = None

    def to_supervision(self) -> Any:
        """Returns `supervision.Detections` with masks; see `Detected.to_supervision`."""
        return _to_supervision(self, mask=np.asarray(self.masks))


def _to_supervision(found: "Detected | Segmented", **more: Any) -> Any:
    try:
        supervision = importlib.import_module("supervision")
    except ImportError as error:
        raise UserError(
            "supervision is not installed; pip install 'rpn-jax[supervision]'"
        ) from error
    return supervision.Detections(
        xyxy=np.asarray(found.boxes, np.float32).reshape(-1, 4),
        confidence=np.asarray(found.scores, np.float32),
        class_id=np.asarray(found.labels, int),
        data={"class_name": np.array(found.names, dtype=str)},
        **more,
    )


Objects = Detected | Segmented


def load(place: Path, *, step: int | str | None = None, settings: str = "test") -> "Model":
    """Returns the trained network of a run's folder or a model file.

    Args:
      place: folder from `train`, or file from `export-weights`, `import-weights` or `Model.save`,
        which may be on the Hugging Face Hub: "hf://OWNER/REPO[@REVISION][/FILE]".
      step: step of the run's checkpoint; the newest by default; "best" is that of the validation
        with the highest headline figure.
      settings: number of proposals, as for use, "test", or to train a detector on, "train".

    Raises:
      UserError: the run, the file or the step does not exist, or cannot be read.
    """
    place = local_file(place)
    if settings not in ("train", "test"):
        raise UserError(f'settings={settings!r}: give "test" or "train"')
    config = trained_config(place)
    if step is not None and not place.is_dir():
        raise UserError(f"step={step}: a model file holds one step; leave it out")
    if isinstance(step, str) and step != "best":
        raise UserError(f'step={step!r}: give a number or "best"')
    detector, variables, step = load_trained(config, place, step)
    return Model(config, detector.with_counts(settings), variables, source=str(place), step=step)


class Model:
    """A trained network, ready on all local devices.

    A program is compiled for each canvas on its first use; there are at most eight canvases.

    Attributes:
      class_names: names of the classes that `detect` finds, () for an RPN.
      step: number of training steps; None for imported weights.
      source: folder or file that the network was loaded from.
    """

    def __init__(
        self,
        config: ConfigDict,
        detector: Detector,
        variables: dict[str, Any],
        *,
        source: str,
        step: int | None,
    ):
        """Use `load`. `variables` are on all local devices."""
        self._config, self._detector, self._variables = config, detector, variables
        self._predictors: dict[str, Predictor] = {}
        self.class_names = tuple(config.box.class_names) if "box" in config else ()
        self.source, self.step = source, step

    def __getstate__(self) -> dict:
        """Leaves out what was compiled, so that a model can be pickled after its use as before."""
        return {**self.__dict__, "_predictors": {}}

    def __repr__(self) -> str:
        backbone = self._config.model.backbone
        return f"<rpn_jax.Model {backbone} of {self.source}, step {self.step}>"

    def propose(
        self, images: ImageSource | Sequence[ImageSource] | Iterator[np.ndarray]
    ) -> Found | list[Found] | Iterator[Found]:
        """Returns the boxes found in an image, or a list of results for several, in their order.

        Args:
          images: an array (H, W, 3) of uint8 RGB, or the path of an image file; a list of these, of
            any sizes; the path of a folder, for all images in it and below, sorted by path; or an
            iterator of arrays, such as frames of a video, for an iterator of results.

        Raises:
          UserError: an array has another shape or type, a file is no image, or a folder has no
            images; the line names it.
        """
        check_proposes(self._config, self.source)
        return self._found(
            images, self._detector.rpn(), lambda image, path: Found(image.boxes, image.scores, path)
        )

    def detect(
        self, images: ImageSource | Sequence[ImageSource] | Iterator[np.ndarray]
    ) -> Objects | list[Objects] | Iterator[Objects]:
        """Returns the objects found in an image, or a list of results for several, in their order.

        A result is `Detected`, or `Segmented` where the network has a mask head.

        Args:
          images: see `propose`.

        Raises:
          UserError: the network has no classes, or no RPN; or see `propose`.
        """
        check_detects(self._config, self.source)
        check_proposes(self._config, self.source)

        def found(image: PredictedImage, path: pathlib.Path | None) -> Objects:
            names = tuple(self.class_names[label] for label in image.labels)
            fields = image.boxes, image.scores, image.labels, names
            if image.masks is None:
                return Detected(*fields, path)
            return Segmented(*fields, image.masks, path)

        return self._found(images, self._detector, found)

    def _found(self, images, detector: Detector, result: Callable) -> Any:
        """Returns what `result` makes of each image and its path."""
        if isinstance(images, Iterator):
            return self._found_among(images, detector, result)
        if isinstance(images, list | tuple):
            sources = list(images)
        elif isinstance(images, str | os.PathLike) and user_path(images).is_dir():
            sources = image_files(user_path(images))
        else:
            return self._found_in([images], ["image"], detector, result)[0]
        names = [f"images[{i}]" for i in range(len(sources))]
        return self._found_in(sources, names, detector, result)

    def _found_among(self, images: Iterator, detector: Detector, result: Callable) -> Iterator:
        paths: dict[int, pathlib.Path] = {}  # of those on their way through the network

        def noted():
            for index, image in enumerate(images):
                if isinstance(image, str | os.PathLike):
                    image = paths[index] = user_path(image)
                yield image

        for image in self._predictor(detector).predict_stream(noted()):
            yield result(image, paths.pop(image.index, None))

    def _found_in(
        self, sources: list[ImageSource], names: list[str], detector: Detector, result: Callable
    ) -> list:
        paths = [
            user_path(source) if isinstance(source, str | os.PathLike) else None
            for source in sources
        ]
        images = [path or source for path, source in zip(paths, sources, strict=True)]
        found: list[Any] = [None] * len(images)
        for image in self._predictor(detector).predict(images, names):
            if image.error:
                raise UserError(image.error)
            found[image.index] = result(image, paths[image.index])
        return found

    def _predictor(self, detector: Detector) -> Predictor:
        kind = type(detector).__name__
        if kind not in self._predictors:  # compiled once for all calls
            self._predictors[kind] = Predictor(self._config, detector, self._variables)
        return self._predictors[kind]

    def evaluate(
        self,
        split: str | None = None,
        *,
        dataset: str | None = None,
        source: Path | None = None,
        data_dir: Path | None = None,
        batch_size: int | None = None,
        without: Sequence[str] = (),
    ) -> Figures:
        """Measures the network on a prepared dataset and writes nothing.

        Args:
          split: split of the dataset; by default the validation split of the training.
          dataset: name as in `config.data.dataset`; by default the training's dataset.
          source: folder that `voc_folder`, `coco_json` and `yolo` read.
          data_dir: folder of prepared datasets.
          batch_size: number of images on each device at once.
          without: parts to leave out: "nms", "ranking" or "regression".

        Returns:
          The figures: `scalars["AR@100"]` is the average recall of 100 proposals, or of a detector
          `scalars["AP"]` the average precision, and `scalars["masks_AP"]` that of its masks.
          `table` is for printing.

        Raises:
          UserError: the dataset is not prepared, or the split does not exist.
        """
        config = self._config.copy_and_resolve_references()
        if dataset is not None:
            name_dataset(config, dataset)
        given = {"source": source, "data_dir": data_dir}
        for name, value in given.items():
            if value is not None:
                config.data[name] = os.fspath(value)
        if batch_size is not None:
            config.evaluation.batch_size = batch_size
            check_config(config)
        without = (without,) if isinstance(without, str) else tuple(without)
        if without:
            check_proposes(config, self.source)
        if unknown := [part for part in without if part not in LEFT_OUT]:
            raise UserError(f"without={unknown[0]!r}: give parts of {', '.join(LEFT_OUT)}")
        data = open_split(config, split or config.data.eval_split, needs_masks=False)
        data = with_proposals(config, data, "eval")
        results = detector_results(config, self._detector, self._variables, data, without)
        return evaluate(config, results, of_masks=measures_masks(config, data))[0]

    def export(
        self,
        path: Path,
        image_hw: tuple[int, int],
        *,
        batch_size: int = 1,
        platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    ) -> None:
        """Writes the function from images to boxes, or masks, for use without this package.

        The command `export` says how to read and call it.

        Args:
          path: file to write.
          image_hw: rows and columns of the canvas.
          batch_size: number of images per call.
          platforms: platforms to compile for; "rocm" is known too.
        """
        check_proposes(self._config, self.source)
        check_out(user_path(path), flag="path")
        write_function(
            self._detector,
            self._variables,
            user_path(path),
            image_hw=image_hw,
            batch_size=batch_size,
            platforms=platforms,
            class_names=self.class_names,
            pasting=pasting_of(self._config),
        )

    def save(self, path: Path) -> None:
        """Writes a model file for `load`; the name ends in `.safetensors`."""
        variables = jax.device_get(self._variables)
        path = user_path(path)
        write_model(path, self._config, variables, source=self.source, step=self.step)
