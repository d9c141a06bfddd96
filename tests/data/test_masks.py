"""Masks: cut to boxes as the slow way cuts them, also through the loader; counts of any origin."""

from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image
from references import cut_mask

from rpn_jax.data.augmentation import Sample
from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.data.loader import cut_masks, eval_batches, train_batches
from rpn_jax.data.masks import Masks, cut, decode, encode, extent, fills
from rpn_jax.data.plan import BatchPlan
from rpn_jax.data.scales import Jitter, Scale, one_canvas
from rpn_jax.data.transforms import whole_view
from rpn_jax.errors import UserError

SIZE = 14


def blobs(count, height, width):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    centres, radii = rng.uniform(0, (height, width), (count, 2)), rng.uniform(3, 12, count)
    return [np.hypot(y - a, x - b) < r for (a, b), r in zip(centres, radii, strict=True)]


def assert_cut(found, expected):
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1  # where rounding decides


@pytest.mark.parametrize(
    "box", [(3, 5, 20, 25), (2.3, 4.9, 18.25, 29.99), (7.2, 7.1, 7.9, 8.4), (0, 0, 40, 30)]
)
def test_a_cell_holds_the_part_that_the_object_covers(box):
    for bitmap in blobs(4, 30, 40):
        found = cut(encode(bitmap), 30, 40, np.array(box, float), SIZE)
        assert_cut(found, cut_mask(bitmap, box, SIZE))


def test_no_mask_and_no_area_are_zeros():
    counts = encode(np.ones((30, 40), bool))
    assert (cut(counts, 30, 40, np.array([3.0, 4, 9, 8]), SIZE) == 255).all()
    assert not cut(b"", 30, 40, np.array([3.0, 4, 9, 8]), SIZE).any()
    assert not cut(counts, 30, 40, np.array([3.0, 4, 3, 8]), SIZE).any()


def test_masks_of_an_image_are_decoded_when_asked_for():
    bitmaps = blobs(3, 30, 40)
    masks = Masks([*map(encode, bitmaps), b""], 30, 40)
    assert len(masks) == 4
    np.testing.assert_array_equal(masks[1], bitmaps[1])
    np.testing.assert_array_equal(masks, [*bitmaps, np.zeros((30, 40), bool)])
    assert masks[0].dtype == np.asarray(masks).dtype == bool
    assert masks[-1].shape == (30, 40)
    assert not masks[-1].any()
    for chosen in (np.array([True, False, True, False]), [0, 2], slice(0, 3, 2)):
        some = masks[chosen]
        assert len(some) == 2
        np.testing.assert_array_equal(some[1], bitmaps[2])
    with pytest.raises(IndexError):
        masks[4]
    assert np.asarray(masks[:0]).shape == (0, 30, 40)
    for runs, bitmap in zip(masks[:3].to_coco(), bitmaps, strict=True):
        assert runs["size"] == [30, 40]
        np.testing.assert_array_equal(pycocotools.mask.decode(runs), bitmap)


def test_a_prepared_mask_that_runs_over_the_image_is_named():
    counts = encode(np.ones((60, 80), bool))
    boxes, one = np.float32([[0, 0, 40, 30]]), np.zeros(1, int)
    sample = Sample(
        np.zeros((30, 40, 3), np.uint8),
        boxes,
        one,
        one > 0,
        Masks([counts], 30, 40),
        boxes[:0],
        one[:0],
    )
    out = np.zeros((1, SIZE, SIZE), np.uint8)
    with pytest.raises(UserError, match="a.jpg: its prepared mask 1 runs over the image"):
        cut_masks(
            sample,
            whole_view(30, 40, shorter_side=30, longer_side=40),
            one == 0,
            flip=False,
            out=out,
            filename="a.jpg",
        )


def test_counts_of_other_images_are_told():
    bitmap = blobs(1, 30, 40)[0]
    counts = encode(bitmap)
    np.testing.assert_array_equal(decode(counts, 30, 40), bitmap)
    assert extent(counts, 30, 40)[2] == np.flatnonzero(bitmap.any(axis=0))[-1] + 1
    assert fills(counts, 30, 40)
    assert fills(encode(np.ones((1, 1), bool)), 1, 1)
    for other in ((30, 39), (31, 40), (1, 1)):
        assert not fills(counts, *other)
    for hostile in (b"", b"0", b"5", b"zzzz", b"a" * 50, b"\x7f" * 10):
        assert not fills(hostile, 30, 40)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    place = dict(data_dir=tmp_path_factory.mktemp("shapes"), image_size=64, num_test=1)
    prepare_dataset("shapes", num_train=4, **place)
    return open_dataset("shapes", "train", num_train=4, **place)


def test_a_prepared_dataset_keeps_masks(shapes):
    assert shapes.has_masks
    for record in (shapes[i] for i in range(len(shapes))):
        assert len(record.masks) == len(record.boxes)
        for counts, box in zip(record.masks, record.boxes, strict=True):
            own = extent(counts, 64, 64)
            assert (own[:2] >= box[:2] - 1).all()
            assert (own[2:] <= box[2:] + 1).all()
            assert (2 * (own[2:] - own[:2]) > box[2:] - box[:2]).all()


def test_slots_hold_the_masks_of_their_boxes_at_any_scale(shapes):
    scale = Scale(96, 96, one_canvas((96, 96), len(shapes)))
    (batch,) = eval_batches(shapes, 4, scale, mask_size=SIZE)
    assert batch.gt_masks.shape == (*batch.gt_valid.shape, SIZE, SIZE)
    assert not batch.gt_masks[~batch.gt_valid].any()
    for place, index in enumerate(batch.image_index):
        record = shapes[index]
        for slot, (counts, box) in enumerate(zip(record.masks, record.boxes, strict=True)):
            assert_cut(batch.gt_masks[place, slot], cut_mask(decode(counts, 64, 64), box, SIZE))
    plan = BatchPlan(np.zeros(4, np.int64), 4, seed=0, flip_probability=1.0)
    (mirrored,) = train_batches(shapes, plan, [scale], num_steps=1, mask_size=SIZE)
    for place, index in enumerate(mirrored.image_index):
        other = batch.gt_masks[batch.image_index.tolist().index(index)]
        np.testing.assert_array_equal(mirrored.gt_masks[place], other[..., ::-1])
    assert next(eval_batches(shapes, 4, scale)).gt_masks is None


def test_a_crop_cuts_masks_anew(shapes):
    """Each cell is then the part that the object covers of that cell of the visible box."""
    jitter = Jitter(1.5, 2.0, 4.0, one_canvas((64, 64), len(shapes)))
    plan = BatchPlan(np.zeros(4, np.int64), 4, seed=1)
    for step, batch in enumerate(
        train_batches(shapes, plan, [jitter], num_steps=2, mask_size=SIZE)
    ):
        planned = plan.batch(step)
        assert planned.flips.any()
        for place, index in enumerate(planned.examples):
            record = shapes[index]
            view = jitter.view(64, 64, (64, 64), planned.draws[place])
            factor, (top, left) = view.resized_hw[0] / 64, view.corner
            bitmaps = [decode(counts, 64, 64) for counts in record.masks]
            if planned.flips[place]:
                bitmaps = [bitmap[:, ::-1] for bitmap in bitmaps]
            valid = batch.gt_valid[place]
            shown = batch.gt_boxes[place][valid]
            boxes = np.clip((shown + [[left, top, left, top]]) / factor, 0, 64)
            for mask, box, label in zip(
                batch.gt_masks[place][valid], boxes, batch.gt_labels[place][valid], strict=True
            ):
                of_class = [
                    np.abs(cut_mask(bitmap, box, SIZE).astype(int) - mask).max()
                    for bitmap, other in zip(bitmaps, record.labels + 1, strict=True)
                    if other == label
                ]
                assert min(of_class) <= 1


def test_coco_keeps_all_masks_and_crowds_train_none(coco, tmp_path):
    """Polygons may be several; a crowd's runs are kept, for figures, and not handed to a step."""
    polygons = [[3, 4, 9, 4, 9, 20, 3, 20], [10, 10, 12, 10, 12, 22, 10, 22]]
    first, crowd, last = coco.content["annotations"]
    first["segmentation"] = polygons
    crowd["segmentation"] = {"size": [30, 40], "counts": [300, 600, 300]}
    last["segmentation"] = [[-90, 0, 50, 0, 1]]
    coco.write()
    place = dict(data_dir=tmp_path / "data", source=coco.root)
    report = prepare_dataset("coco_json", **place)
    assert report.splits["val"].masks == 1
    what = "annotation 3 of image 50, bbox=[1, 1, 5, 5], mask polygon 1 has 5 numbers, an odd count"
    assert report.splits["val"].masks_left_out == [(str(coco.file), what)]
    assert "masks left out:" in str(report)
    assert prepare_dataset("coco_json", **place).already_prepared
    dataset = open_dataset("coco_json", "val", **place)
    assert dataset.has_masks
    bitmap, of_crowd = (decode(counts, 30, 40) for counts in dataset[0].masks)
    assert bitmap[4:20, 3:9].all()
    assert bitmap[10:22, 10:12].all()
    assert of_crowd.sum() == 600
    assert dataset[1].masks == [b""]
    scale = Scale(40, 40, one_canvas((40, 40), 2))
    (batch,) = eval_batches(dataset, 2, scale, mask_size=SIZE)
    assert batch.gt_ignore[0, 1]
    assert batch.gt_masks[0, 0].any()
    assert not batch.gt_masks[0, 1:].any()
    assert not batch.gt_masks[1].any()
    first["segmentation"] = polygons[:1]
    coco.write()
    of_other = tmp_path / "other"
    prepare_dataset("coco_json", data_dir=of_other, source=coco.root)
    other = open_dataset("coco_json", "val", data_dir=of_other, source=coco.root)
    assert other.fingerprint == dataset.fingerprint, "it is that of boxes"
    assert other.masks != dataset.masks
    with pytest.raises(UserError, match="has changed since .*its masks are others"):
        prepare_dataset("coco_json", **place)


def test_voc_names_the_file_whose_masks_are_others(voc, tmp_path):
    folder = voc.root / "SegmentationObject"
    folder.mkdir()
    pixels = np.zeros((40, 30), np.uint8)
    pixels[6:36, 5:25], pixels[5] = 1, 255  # a border
    Image.fromarray(pixels).save(folder / "b.png")
    other = np.zeros((30, 40), np.uint8)
    other[2:4, 3:9] = 7
    Image.fromarray(other).save(folder / "e.png")
    Image.fromarray(other[:9]).save(folder / "a.png")
    place = dict(data_dir=tmp_path / "data", source=voc.root, splits=["train"])
    report = prepare_dataset("voc_folder", **place)
    assert [(Path(file).name, what) for file, what in report.splits["train"].masks_left_out] == [
        ("a.png", "has 40x9 pixels, the image 40x30"),
        ("e.png", "has an object 7, but the annotation only 1"),
    ]
    dataset = open_dataset("voc_folder", "train", **place)
    np.testing.assert_array_equal(decode(dataset[1].masks[0], 40, 30), pixels == 1)
    assert [len(dataset[i].masks) for i in range(5)] == [2, 1, 0, 3, 1]
    assert dataset[3].masks == [b"", b"", b""]


def test_data_that_were_prepared_without_masks_open_until_they_are_prepared_anew(voc, tmp_path):
    place = dict(data_dir=tmp_path / "data", source=voc.root, splits=["train"])
    prepare_dataset("voc_folder", **place)
    folder = voc.root / "SegmentationObject"
    folder.mkdir()
    corner = np.zeros((40, 30), np.uint8)
    corner[:20, :10] = 1
    Image.fromarray(corner).save(folder / "b.png")
    assert prepare_dataset("voc_folder", **place).already_prepared
    assert not open_dataset("voc_folder", "train", **place).has_masks
    report = prepare_dataset("voc_folder", anew=True, **place)
    assert report.splits["train"].masks == 1
    (noted,) = (what for _, what in report.splits["train"].noted if "mask" in what)
    assert noted.startswith("object 1 (cat), xmin 5, ymin 6, xmax 25, ymax 36, mask and box are")
    assert open_dataset("voc_folder", "train", **place).has_masks


def test_a_mask_outside_of_its_box_is_left_out(coco, tmp_path):
    coco.content["annotations"][0]["segmentation"] = [[30, 24, 38, 24, 38, 29, 30, 29]]
    coco.content["annotations"][2]["segmentation"] = [[1, 1, 6, 1, 6, 6, 1, 6]]
    coco.write()
    report = prepare_dataset("coco_json", data_dir=tmp_path, source=coco.root).splits["val"]
    assert (report.masks, report.objects) == (1, 2)
    (left_out,) = report.masks_left_out
    assert left_out.what.endswith("mask lies in (30, 24, 38, 29), outside of the box")


@pytest.mark.parametrize("runs_of_no_pixel", [[], [5, 0]])
def test_a_mask_of_no_pixel_is_left_out(coco, tmp_path, runs_of_no_pixel):
    height, width = (coco.content["images"][0][side] for side in ("height", "width"))
    counts = [*runs_of_no_pixel, height * width - sum(runs_of_no_pixel)]
    runs = {"size": [height, width], "counts": counts}
    coco.content["annotations"][0]["segmentation"] = runs
    coco.content["annotations"][2]["segmentation"] = [[1, 1, 6, 1, 6, 6, 1, 6]]
    coco.write()
    report = prepare_dataset("coco_json", data_dir=tmp_path, source=coco.root).splits["val"]
    (left_out,) = report.masks_left_out
    assert left_out.what.endswith(f"mask covers no pixel of the {width}x{height} image")


def test_voc_masks_that_are_there_in_another_way_are_used_or_named(voc, tmp_path):
    folder = voc.root / "SegmentationObject"
    folder.mkdir()
    pixels = np.zeros((40, 30), np.uint8)
    pixels[6:36, 5:25] = 1
    Image.fromarray(pixels).save(folder / "b.PNG")
    (folder / "a.png").symlink_to("nowhere.png")
    Image.fromarray(pixels).save(folder / "e.bmp")
    (folder / "e.txt").write_text("a note")
    place = dict(data_dir=tmp_path / "data", source=voc.root, splits=["train"])
    report = prepare_dataset("voc_folder", **place)
    assert [(Path(file).name, what) for file, what in report.splits["train"].masks_left_out] == [
        ("a.png", '"a.png" is no regular file'),
        ("e.bmp", "has 30x40 pixels, the image 40x30"),
    ]
    dataset = open_dataset("voc_folder", "train", **place)
    np.testing.assert_array_equal(decode(dataset[1].masks[0], 40, 30), pixels == 1)


def test_data_without_masks_are_as_they_were(voc_dataset):
    assert not voc_dataset.has_masks
    assert voc_dataset[0].masks is None
