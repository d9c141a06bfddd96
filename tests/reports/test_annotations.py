"""The page of a prepared dataset: what it shows, and which annotations it calls odd."""

import pytest

from rpn_jax.__main__ import main
from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.reports.annotations import (
    LONG,
    SMALL,
    TWICE,
    TWO_CLASSES,
    WHOLE,
    odd_boxes,
    write_annotations,
)


@pytest.fixture
def odd(coco):
    """Every kind of oddity, and a copy of an image; image p has a dog at (2, 3, 12.5, 23)."""
    add = coco.annotation
    coco.content["annotations"] += [
        add(4, 70, 18, [2, 3, 10.4, 20]),
        add(5, 70, 3, [2, 3, 10.5, 19.8]),
        add(6, 70, 3, [20, 5, 1, 20]),
        add(7, 70, 3, [22, 5, 10, 2]),
        add(8, 50, 18, [0, 0.5, 30, 39.5]),
    ]
    coco.content["images"].append({"id": 60, "file_name": "r.jpg", "height": 30, "width": 40})
    coco.image("r.jpg").write_bytes(coco.image("p.jpg").read_bytes())
    coco.write()
    return coco


def test_odd_annotations_and_copies_are_shown(odd, tmp_path, capsys):
    flags = [
        "--config=bccd",
        "--config.data.dataset=coco_json",
        f"--config.data.source={odd.root}",
        f"--config.data.data_dir={tmp_path / 'prepared'}",
        "--config.data.train_split=val",
        "--config.data.eval_split=val",
    ]
    assert main(["prepare", *flags, f"--report={tmp_path / 'page'}", "--images=2"]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'page' / 'dataset.html'}\n")
    page = (tmp_path / "page" / "dataset.md").read_text()
    for row in (
        f"| {TWICE} | 1 |",
        f"| {TWO_CLASSES} | 2 |",
        f"| {SMALL} | 2 |",
        f"| {WHOLE} | 1 |",
        f"| {LONG} | 1 |",
        "| val/p.jpg (val), val/r.jpg (val) |",
        "| objects | 7 |",
        "| ignore regions | 1 |",
        "| without an object | 1 |",
    ):
        assert row in page, row
    assert "p.jpg, 30 x 40 pixels, val: dog and car" in page
    assert "2 of 3 images" in page
    # A picture for each pair or box, of which one is both thin and long, and for each image drawn.
    assert len(list((tmp_path / "page" / "pictures").iterdir())) == 6 + 2

    dataset = open_dataset("coco_json", "val", data_dir=tmp_path / "prepared", source=odd.root)
    record = dataset[[dataset[i].image_id for i in range(3)].index(70)]
    of_kind = {kind: places for kind, places in odd_boxes(record) if kind == TWICE}
    (places,) = of_kind.values()
    assert [record.boxes[i].tolist() for i in places] == [
        pytest.approx([2, 3, 12.5, 23]),
        pytest.approx([2, 3, 12.4, 23]),
    ]


def test_a_dataset_without_a_fault_has_masks_and_nothing_odd(tmp_path):
    options = {"num_train": 3, "num_test": 2, "image_size": 64}
    report = prepare_dataset("shapes", data_dir=tmp_path, **options)
    datasets = {s: open_dataset("shapes", s, data_dir=tmp_path, **options) for s in report.splits}
    write_annotations(report, datasets, tmp_path / "page")
    assert len(list((tmp_path / "page" / "pictures").iterdir())) == 3 + 2
    assert "Nothing is odd" in (tmp_path / "page" / "dataset.md").read_text()


def test_a_page_that_cannot_be_written_is_known_first(tmp_path, capsys):
    (tmp_path / "page").write_text("")
    status = main(["prepare", "--config=shapes", f"--report={tmp_path / 'page'}"])
    assert status == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --report={tmp_path / 'page'}: cannot be written")
    assert main(["prepare", "--config=shapes", "--images=-1"]) == 1
    assert "--images=-1" in capsys.readouterr().err
