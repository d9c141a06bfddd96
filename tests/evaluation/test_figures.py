import json
import types

import pytest
from evaluation.images import random_detections, random_images

from rpn_jax.evaluation.figures import (
    Measurements,
    around_headline,
    headline_recall,
    of_all,
    read_figures,
)
from rpn_jax.evaluation.precision import PrecisionMeasurement
from rpn_jax.evaluation.recall import RecallMeasurement
from rpn_jax.evaluation.weighted import SplitMatches
from rpn_jax.files import write_text


@pytest.mark.parametrize(
    ("top_ns", "name"),
    [((10, 50, 100, 300, 1000), "AR@300"), ((10, 50), "AR@50"), ((500, 1000), "AR@500")],
)
def test_the_headline_is_the_recall_of_300_proposals_or_of_fewer(top_ns, name):
    assert headline_recall(top_ns) == name


@pytest.mark.parametrize(
    ("headline", "names"),
    [
        ("a", ["a", "b", "c"]),
        ("c", ["b", "c", "d"]),
        ("e", ["c", "d", "e"]),
        ("f", ["c", "d", "e"]),
        (None, ["c", "d", "e"]),
    ],
)
def test_figures_around_the_headline(headline, names):
    scalars = {**dict.fromkeys("abc", 0.5), "c_small": 0.2, **dict.fromkeys("de", 0.5)}
    assert around_headline(scalars, headline, 3) == names
    assert around_headline({}, headline, 3) == []
    assert around_headline({"a": 0.5}, headline, 3) == ["a"]


def test_figures_of_version_0_1_are_read(tmp_path):
    old = {"step": 7, "average_recall": {"AR@10": 0.5, "AR@100": 0.75, "AR_small@100": 0.25}}
    write_text(tmp_path / "recall.json", json.dumps(old))
    figures = read_figures(tmp_path)
    assert figures["headline"] == "AR@100"
    assert figures["scalars"] == old["average_recall"]
    assert figures["step"] == 7
    assert of_all(figures["scalars"]) == {"AR@10": 0.5, "AR@100": 0.75}


def test_a_folder_without_figures(tmp_path):
    assert read_figures(tmp_path) == {}


def test_nothing_measured_has_no_scalars():
    figures = RecallMeasurement((10, 100)).result()
    assert figures.headline == "AR@100"
    assert figures.scalars == {}
    assert json.loads(json.dumps(figures.to_json(), allow_nan=False))["images"] == 0


def test_several_measurements_of_the_same_images():
    proposed = random_images(0, [(40, 12), (60, 5)])
    detected = random_detections(0, [(40, 12), (60, 5)])

    def empty():
        parts = {"proposals": RecallMeasurement((10,))}
        return Measurements(parts | {"detections": PrecisionMeasurement(("none", "cat", "dog"))})

    shares, together = [], empty()
    for proposals, detections in zip(proposed, detected, strict=True):
        measurement = empty()
        for each in (measurement, together):
            each.add(types.SimpleNamespace(proposals=proposals, detections=detections))
        shares.append(json.loads(json.dumps(measurement.share())))
    total = empty()
    for share in shares[::-1]:
        total.merge(share)
    figures = total.result()
    assert figures[:4] == together.result()[:4]
    # The last has the headline; the others' figures are named after their part.
    assert figures.headline == "AP"
    assert {"AP", "proposals_AR@10"} <= set(figures.scalars)
    assert "AR@10" in of_all(figures.scalars)
    assert {"recall", "classes", "errors"} <= set(figures.details)
    assert set(figures.arrays) == set(SplitMatches._fields)
    assert "proposals:\n2 images" in figures.table
    alone = Measurements({"proposals": RecallMeasurement((10,))})
    alone.add(types.SimpleNamespace(proposals=proposed[0]))
    assert alone.result().headline == "AR@10"
