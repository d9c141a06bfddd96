import json

import numpy as np

from rpn_jax.data.datasets.report import PreparationReport, tally
from rpn_jax.data.datasets.source import CheckedExample, Example, Finding


def checked(boxes, labels, ignore, dropped=()):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    example = Example(b"", "f", 0, boxes, np.array(labels, int), np.array(ignore, bool), None, None)
    return CheckedExample(example, 100, 100, [], list(dropped))


FINDING = Finding("bad.jpg", "box 1 has no area")
EXAMPLES = [
    # sizes 10, 20 and (ignored) 50; aspects 1, 4 and 1
    checked([[0, 0, 10, 10], [0, 0, 40, 10], [0, 0, 50, 50]], [0, 2, 0], [False, False, True]),
    checked([], [], [], [FINDING]),
    checked([[0, 0, 9, 9]], [1], [True]),
]


def test_what_is_counted():
    report = tally(EXAMPLES, 3, [Finding("gone.jpg", "truncated")])
    assert report.images == 3
    assert report.images_without_objects == 2
    assert report.objects == 2
    assert report.ignored == 2
    assert report.per_class == [1, 0, 1]
    assert report.sizes == [1, 1, 0, 0, 0, 0, 0]
    assert report.aspects == [0, 0, 0, 1, 0, 0, 1]
    assert report.dropped == [FINDING]
    assert report.skipped == [("gone.jpg", "truncated")]


def test_nothing_at_all_can_be_counted():
    report = tally([], 2, [])
    assert report.images == report.objects == 0
    assert report.per_class == [0, 0]


def whole():
    splits = {split: tally(EXAMPLES, 3, []) for split in ("train", "val")}
    return PreparationReport("voc_folder", "/data", ["cat", "a long name", "dog"], splits, "/out")


def test_it_survives_json():
    assert PreparationReport.from_dict(json.loads(json.dumps(whole().asdict()))) == whole()


def test_it_reads_as_a_table():
    lines = str(whole()).splitlines()
    assert lines[0] == "voc_folder prepared from /data"
    assert lines[1] == "in /out"
    rows = {line[:22].strip(): line[22:].split() for line in lines[3:]}
    assert rows[""] == [] or rows[""] == ["train", "val"]
    assert rows["images"] == ["3", "3"]
    assert rows["a long name"] == ["0", "0"]
    assert rows["16-32"] == ["1", "1"]
    table = [line for line in lines if line.endswith(" 3")]
    assert len({len(line) for line in table}) == 1  # the columns are aligned


def test_a_file_named_by_two_splits_is_listed_once():
    assert str(whole()).count("bad.jpg") == 1


def test_long_lists_say_where_the_rest_is():
    many = whole()
    many.splits["val"].dropped = [Finding(f"{i}.jpg", "has no area") for i in range(50)]
    text = str(many)
    assert "19.jpg" not in text  # 20 lines, the first of which is the other split's
    assert "… and 31 more, all in /out/metadata.json" in text
