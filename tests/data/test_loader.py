import itertools
import pathlib

import jax
import numpy as np
import pytest
from damage import flip_a_byte

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.data.loader import Batch, eval_batches, load_example, train_batches
from rpn_jax.data.plan import BatchPlan, choose_buckets, rescaled
from rpn_jax.data.proposals import StoredProposals
from rpn_jax.data.scales import Jitter, Scale, one_canvas
from rpn_jax.data.transforms import resized_hw, whole_view
from rpn_jax.errors import UserError

SIDES = dict(shorter_side=48, longer_side=64)


@pytest.fixture(scope="module")
def scale(voc_dataset):
    buckets = choose_buckets(voc_dataset.heights, voc_dataset.widths, **SIDES)
    return Scale(48, 64, buckets)


@pytest.fixture(scope="module")
def buckets(scale):
    return scale.buckets


def shown(record, **options):
    return load_example(record, whole_view(record.height, record.width, **SIDES), **options)


def assert_equal_batches(one: Batch, other: Batch):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_damaged_record_is_one_line(voc, tmp_path, scale):
    place = dict(data_dir=tmp_path / "prepared", source=voc.root)
    directory = pathlib.Path(prepare_dataset("voc_folder", **place).directory)
    flip_a_byte(directory / "voc_folder-train.array_record-00000-of-00001")
    dataset = open_dataset("voc_folder", "train", **place)
    with pytest.raises(UserError, match=r"train\.array_record-0.* is damaged") as raised:
        list(eval_batches(dataset, 2, scale))
    assert "\n" not in str(raised.value)


def test_a_batch_holds_its_planned_examples(voc_dataset, scale, buckets):
    plan = BatchPlan(buckets.of_example, 2, seed=0)
    for step, batch in enumerate(train_batches(voc_dataset, plan, [scale], num_steps=8)):
        planned = plan.batch(step)
        np.testing.assert_array_equal(batch.image_index, planned.examples)
        assert batch.images.shape == (2, *buckets.canvases[planned.bucket], 3)
        assert batch.gt_boxes.shape == (2, 8, 4)  # three boxes at most, in eights
        assert batch.image_valid.all()
        for i in range(2):
            record = voc_dataset[planned.examples[i]]
            image, boxes = shown(record, flip=bool(planned.flips[i]))
            height, width = image.shape[:2]
            np.testing.assert_array_equal(batch.image_hw[i], [height, width])
            np.testing.assert_array_equal(batch.images[i, :height, :width], image)
            assert not batch.images[i, height:].any()
            assert not batch.images[i, :, width:].any()
            count = len(boxes)
            np.testing.assert_array_equal(batch.gt_boxes[i, :count], boxes)
            np.testing.assert_array_equal(batch.gt_valid[i], np.arange(8) < count)
            np.testing.assert_array_equal(batch.gt_ignore[i, :count], record.ignore)
            np.testing.assert_array_equal(batch.gt_labels[i, :count], record.labels + 1)
            assert not batch.gt_labels[i, count:].any()
            assert not batch.gt_ignore[i, count:].any()


def test_each_step_draws_a_scale_and_all_its_images_have_it(voc_dataset, scale, buckets):
    sizes = voc_dataset.heights, voc_dataset.widths
    scales = [
        Scale(side, 96, rescaled(buckets, *sizes, shorter_side=side, longer_side=96))
        for side in (32, 48, 64)
    ]
    plan = BatchPlan(buckets.of_example, 2, seed=0, num_scales=3)
    batches = train_batches(voc_dataset, plan, scales, num_steps=12)
    seen = set()
    for step, batch in enumerate(batches):
        planned = plan.batch(step)
        shorter_side, _, of_scale = scales[planned.scale]
        assert batch.images.shape[1:3] == of_scale.canvases[planned.bucket]
        for image_hw, example in zip(batch.image_hw, planned.examples, strict=True):
            record = voc_dataset[example]
            expected = resized_hw(
                record.height, record.width, shorter_side=shorter_side, longer_side=96
            )
            assert tuple(image_hw) == expected
        seen.add(planned.scale)
    assert seen == {0, 1, 2}


def test_scales_leave_the_order_and_the_mirroring_as_they_are(buckets):
    one, three = (BatchPlan(buckets.of_example, 2, seed=0, num_scales=n) for n in (1, 3))
    for step in range(10):
        for a, b in zip(one.batch(step)[:3], three.batch(step)[:3], strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_example_is_scaled_and_mirrored_with_its_boxes(voc_dataset):
    record = voc_dataset[0]  # 30x40 with boxes (0, 0, 10, 20) and (10, 4, 40, 30)
    image, boxes = shown(record)
    assert image.shape == (48, 64, 3)  # 1.6 times
    np.testing.assert_allclose(boxes, [[0, 0, 16, 32], [16, 6.4, 64, 48]], rtol=1e-6)
    mirrored, boxes = shown(record, flip=True)
    np.testing.assert_array_equal(mirrored, image[:, ::-1])
    np.testing.assert_allclose(boxes, [[48, 0, 64, 32], [0, 6.4, 48, 48]], rtol=1e-6)


def test_resuming_at_a_step_gives_the_same_batches(voc_dataset, scale, buckets):
    plan = BatchPlan(buckets.of_example, 2, seed=5)
    whole = list(train_batches(voc_dataset, plan, [scale], num_steps=7, num_threads=3))
    resumed = train_batches(voc_dataset, plan, [scale], start_step=4, num_steps=3, num_threads=1)
    assert len(whole) == 7
    for one, other in zip(whole[4:], resumed, strict=True):
        assert_equal_batches(one, other)


def test_training_never_ends_by_itself(voc_dataset, scale, buckets):
    plan = BatchPlan(buckets.of_example, 2, seed=5)
    batches = train_batches(voc_dataset, plan, [scale], start_step=10**6)
    assert len(list(itertools.islice(batches, 9))) == 9


def test_the_shares_of_the_processes_make_up_the_batch(voc_dataset, scale, buckets):
    plan = BatchPlan(buckets.of_example, 4, seed=0)

    def batches(**process):
        return train_batches(voc_dataset, plan, [scale], num_steps=5, **process)

    shares = [batches(process_index=p, process_count=2) for p in range(2)]
    for whole, first, second in zip(batches(), *shares, strict=True):
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), first, second)
        assert_equal_batches(whole, joined)


@pytest.mark.parametrize(("batch_size", "processes"), [(1, 1), (2, 2), (4, 2), (6, 3)])
def test_evaluation_shows_every_image_once(voc_dataset, scale, batch_size, processes):
    seen, lengths = [], set()
    for process in range(processes):
        batches = list(
            eval_batches(
                voc_dataset,
                batch_size,
                scale,
                process_index=process,
                process_count=processes,
            )
        )
        lengths.add(tuple(batch.images.shape for batch in batches))
        for batch in batches:
            seen += batch.image_index[batch.image_valid].tolist()
            padding = ~batch.image_valid
            assert not batch.images[padding].any()
            assert not batch.gt_valid[padding].any()
            assert (batch.image_hw[padding] == batch.images.shape[1:3]).all()
    assert sorted(seen) == list(range(len(voc_dataset)))
    assert len(lengths) == 1  # the same shapes in the same order for every process


def test_evaluation_does_not_mirror(voc_dataset, scale):
    for batch in eval_batches(voc_dataset, 1, scale):
        image, boxes = shown(voc_dataset[batch.image_index[0]])
        np.testing.assert_array_equal(batch.images[0, : image.shape[0], : image.shape[1]], image)
        np.testing.assert_array_equal(batch.gt_boxes[0, : len(boxes)], boxes)


def test_boxes_are_never_dropped_to_fit(voc_dataset, scale, buckets):
    plan = BatchPlan(buckets.of_example, 1, seed=0)
    with pytest.raises(UserError, match=r"max_objects=2: .*d\.jpg of split .* has 3 boxes; raise"):
        train_batches(voc_dataset, plan, [scale], max_objects=2)
    exact = next(train_batches(voc_dataset, plan, [scale], max_objects=3))
    assert exact.gt_boxes.shape == (1, 3, 4)


def test_a_batch_must_be_shared_evenly(voc_dataset, scale):
    with pytest.raises(UserError, match="batch_size: 4 images cannot be shared by 3 processes"):
        eval_batches(voc_dataset, 4, scale, process_count=3)


def test_proposals_go_the_way_of_the_annotated_boxes(voc_dataset, scale):
    records = list(voc_dataset)
    boxes = np.concatenate([record.boxes for record in records])
    starts = np.cumsum([0, *voc_dataset.num_objects])
    scores = np.arange(len(boxes), 0, -1).astype(np.float32)
    dataset = voc_dataset.with_proposals(StoredProposals(boxes, scores, starts, "digest"))
    jitter = Jitter(0.5, 2.0, 1.0, one_canvas((40, 56), len(dataset)))
    for sizes in (scale, jitter):
        plan = BatchPlan(sizes.buckets.of_example, 2, seed=0)
        for batch in train_batches(dataset, plan, [sizes], num_steps=6):
            assert batch.proposals.shape == (2, 3, 4)  # of the image with the most
            np.testing.assert_array_equal(batch.proposal_valid, batch.gt_valid[:, :3])
            np.testing.assert_array_equal(batch.proposals, batch.gt_boxes[:, :3])
            assert (batch.proposal_scores[batch.proposal_valid] > 0).all()
    assert next(eval_batches(voc_dataset, 2, scale)).proposals.shape == (2, 0, 4)
    whole = list(eval_batches(dataset, 2, scale))
    assert sum(batch.proposal_valid.sum() for batch in whole) == len(boxes)
