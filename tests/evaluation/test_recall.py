import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpn_jax.evaluation.matching import IOU_THRESHOLDS, pairwise_iou
from rpn_jax.evaluation.recall import (
    SIZE_RANGES,
    ImageProposals,
    RecallResult,
    RecallSums,
    image_recall,
)
from rpn_jax.ops import boxes as ops_boxes


def an_image(boxes, scores, gt_boxes, *, ignore=None, areas=None, image_id=1):
    gt_boxes = np.array(gt_boxes, np.float32).reshape(-1, 4)
    sides = gt_boxes[:, 2:] - gt_boxes[:, :2]
    return ImageProposals(
        image_id,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        gt_boxes,
        np.zeros(len(gt_boxes), bool) if ignore is None else np.array(ignore),
        np.prod(sides, axis=1) if areas is None else np.array(areas, np.float32),
    )


def random_image(rng, *, num_proposals, num_objects, image_id=1):
    """Boxes on a coarse grid, scores of few values: ties in both, some crowds, areas of masks."""
    corner = rng.integers(0, 12, (num_objects, 2)) * 8
    gt_boxes = np.concatenate([corner, corner + rng.integers(1, 20, (num_objects, 2)) * 8], axis=1)
    if num_objects:
        near = gt_boxes[rng.integers(0, num_objects, num_proposals)]
    else:
        near = np.full((num_proposals, 4), 50)
    boxes = near + rng.integers(-2, 3, (num_proposals, 4)) * 4.0
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    return an_image(
        boxes,
        rng.integers(0, 20, num_proposals) / 20,
        gt_boxes,
        ignore=rng.random(num_objects) < 0.25,
        areas=np.prod(gt_boxes[:, 2:] - gt_boxes[:, :2], axis=1) * rng.choice([0.5, 1.0]),
        image_id=image_id,
    )


class TestImageRecall:
    def test_by_hand(self):
        # Of the object, 100 x 100, the proposals cover 52, 81 and 97 hundredths: IoU as many.
        boxes = [[0, 0, 100, 97], [0, 0, 100, 81], [0, 0, 100, 52]]
        sums = image_recall(an_image(boxes, [0.1, 0.5, 0.9], [[0, 0, 100, 100]]), top_ns=(1, 2, 3))
        # The best score reaches 0.50 alone, the best two also 0.55 to 0.80, all three every IoU.
        all_sizes, small, medium, large = sums.matched.tolist()
        assert all_sizes == [[1, 1, 1]] + 6 * [[0, 1, 1]] + 3 * [[0, 0, 1]]
        assert large == all_sizes
        assert small == medium == 10 * [[0, 0, 0]]
        assert sums.total.tolist() == [1, 0, 0, 1]
        result = sums.result()
        # 1 of 10 thresholds, 7 of 10, 10 of 10.
        assert [result.average_recall(n) for n in (1, 2, 3)] == pytest.approx([0.1, 0.7, 1.0])
        np.testing.assert_allclose(result.curve(2), [1] * 7 + [0] * 3)

    def test_a_proposal_serves_one_object(self):
        twice = [[0, 0, 10, 10], [0, 0, 10, 10]]
        assert image_recall(an_image(twice[:1], [0.9], twice), (10,)).matched[0, 0, 0] == 1
        assert image_recall(an_image(twice, [0.9, 0.8], twice), (10,)).matched[0, 0, 0] == 2

    def test_a_proposal_takes_the_object_it_covers_most(self):
        # The first proposal covers object 0 to 0.8 and object 1 to 0.6; the second, only object 0.
        # At IoU 0.5 the first takes object 0, and nothing is left for the second.
        gt_boxes = [[0, 0, 10, 10], [0, 4, 10, 14]]
        boxes = [[0, 2, 10, 10], [0, 0, 10, 8]]
        assert image_recall(an_image(boxes, [0.9, 0.8], gt_boxes), (2,)).matched[0, 0, 0] == 1
        # The other way round the second (now first) takes object 0, the first object 1.
        assert image_recall(an_image(boxes, [0.8, 0.9], gt_boxes), (2,)).matched[0, 0, 0] == 2

    def test_on_equal_iou_the_later_object_is_taken(self):
        # Proposal 0 covers both objects alike, proposal 1 only the object in front.
        front, back = [0, 0, 10, 10], [0, 2, 10, 12]
        boxes, scores = [[0, 1, 10, 11], [0, 0, 10, 7]], [0.9, 0.8]
        assert image_recall(an_image(boxes, scores, [front, back]), (2,)).matched[0, 0, 0] == 2
        assert image_recall(an_image(boxes, scores, [back, front]), (2,)).matched[0, 0, 0] == 1

    def test_ignored_objects_are_neither_found_nor_missed(self):
        gt_boxes = [[0, 0, 10, 10], [20, 20, 30, 30]]
        sums = image_recall(an_image([gt_boxes[1]], [0.9], gt_boxes, ignore=[False, True]), (10,))
        assert sums.total[0] == 1
        assert sums.matched[0].max() == 0

    def test_size_comes_from_the_annotation_and_edges_count_twice(self):
        gt_boxes = np.tile([[0, 0, 500, 500]], (4, 1))
        sums = image_recall(an_image([], [], gt_boxes, areas=[1023, 1024, 9216, 9217]))
        assert dict(zip(SIZE_RANGES, sums.total.tolist(), strict=True)) == {
            "all": 4,
            "small": 2,
            "medium": 2,
            "large": 2,
        }

    def test_each_size_is_matched_for_itself(self):
        # The only proposal prefers the large object, but is good enough for the medium one.
        gt_boxes = [[0, 0, 100, 100], [0, 0, 80, 80]]
        sums = image_recall(an_image([[0, 0, 95, 95]], [0.9], gt_boxes), (10,))
        assert sums.matched[:, 0, 0].tolist() == [1, 0, 1, 1]

    @pytest.mark.parametrize("num_proposals", [0, 3])
    def test_without_objects(self, num_proposals):
        boxes = np.tile([[0, 0, 5, 5]], (num_proposals, 1))
        sums = image_recall(an_image(boxes, np.ones(num_proposals), []))
        assert sums.total.max() == sums.matched.max() == 0
        assert (sums.images, sums.proposals) == (1, num_proposals)

    def test_only_the_top_are_looked_at(self):
        rng = np.random.default_rng(0)
        image = random_image(rng, num_proposals=60, num_objects=6)
        kept = np.argsort(-image.scores, kind="stable")[:20]
        fewer = image._replace(boxes=image.boxes[kept], scores=image.scores[kept])
        sums, fewer_sums = image_recall(image, (5, 20)), image_recall(fewer, (5, 20))
        np.testing.assert_array_equal(sums.matched, fewer_sums.matched)
        assert sums.proposals == 20

    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), objects=st.integers(0, 12))
    def test_bounds_and_order(self, seed, objects):
        rng = np.random.default_rng(seed)
        image = random_image(rng, num_proposals=40, num_objects=objects)
        sums = image_recall(image, (1, 10, 40))
        assert (np.diff(sums.matched, axis=2) >= 0).all()  # more proposals find no fewer
        assert (sums.matched <= np.minimum(sums.total[:, None], 40)[:, :, None]).all()
        assert (sums.matched[..., 0] <= 1).all()
        # A far-off proposal with the best score only costs a place.
        far = np.array([[900, 900, 950, 950]], np.float32)
        more = image._replace(
            boxes=np.concatenate([far, image.boxes]),
            scores=np.concatenate([[2], image.scores]).astype(np.float32),
        )
        np.testing.assert_array_equal(image_recall(more, (2, 11, 41)).matched, sums.matched)


class TestRecallSums:
    def images(self):
        rng = np.random.default_rng(1)
        return [
            random_image(rng, num_proposals=p, num_objects=g)
            for p, g in [(9, 3), (0, 4), (50, 0), (30, 8)]
        ]

    def test_adds_in_any_order(self):
        parts = [image_recall(image) for image in self.images()]
        one = sum(parts, RecallSums.empty())
        other = (parts[3] + parts[1]) + (parts[0] + parts[2])
        np.testing.assert_array_equal(one.matched, other.matched)
        assert one.to_lists().keys() == other.to_lists().keys()
        assert (other.images, other.proposals) == (4, 89)
        assert one.result().to_json() == other.result().to_json()

    def test_refuses_other_top_ns(self):
        with pytest.raises(ValueError, match="top"):
            RecallSums.empty((10,)) + RecallSums.empty((20,))

    def test_gathered_from_hosts(self):
        hosts = [image_recall(image) for image in self.images()]
        gathered = [json.loads(json.dumps(host.to_lists())) for host in hosts]
        merged = sum(map(RecallSums.from_lists, gathered), RecallSums.empty())
        expected = sum(hosts, RecallSums.empty())
        assert merged.result().to_json() == expected.result().to_json()


class TestRecallResult:
    def result(self):
        image = an_image([[0, 0, 100, 90]], [0.9], [[0, 0, 100, 100]])
        return image_recall(image, (10, 300)).result()

    def test_without_objects_there_is_no_recall(self):
        result = RecallSums.empty().result()
        assert np.isnan(result.average_recall(10))
        assert result.scalars() == {}
        assert " - " in str(result)

    def test_scalars(self):
        # IoU 0.9 reaches 0.50 to 0.85 surely; 0.90 in float64 too: 9000 / 10000.
        assert self.result().scalars() == pytest.approx(
            {"AR@10": 0.9, "AR@300": 0.9, "AR_large@10": 0.9, "AR_large@300": 0.9}
        )

    def test_json_there_and_back(self):
        result = self.result()
        text = json.dumps(result.to_json(), allow_nan=False)
        back = RecallResult.from_json(json.loads(text))
        np.testing.assert_array_equal(back.recall, result.recall)
        assert back.to_json() == result.to_json()
        assert json.loads(text)["recall"]["large"]["300"] == [1.0] * 9 + [0.0]
        assert json.loads(text)["recall"]["small"]["10"] == [None] * 10

    def test_table_is_aligned(self):
        *heading, header, ten, three_hundred = str(self.result()).splitlines()
        assert heading[0].startswith("1 images, 1 objects (0 small, 0 medium, 1 large)")
        assert header.split() == [
            *("top", "N"),
            *(f"{t:.2f}" for t in IOU_THRESHOLDS),
            *("AR", "small", "medium", "large"),
        ]
        assert ten.split() == ["10"] + ["100.0"] * 9 + ["0.0", "90.0", "-", "-", "90.0"]
        assert len(header) == len(ten) == len(three_hundred)


def test_pairwise_iou_agrees_with_ops():
    rng = np.random.default_rng(2)
    image = random_image(rng, num_proposals=20, num_objects=7)
    iou = pairwise_iou(image.boxes, image.gt_boxes)
    assert iou.dtype == np.float64
    np.testing.assert_allclose(
        iou, ops_boxes.pairwise_iou(image.boxes, image.gt_boxes), rtol=1e-6, atol=1e-7
    )
    assert pairwise_iou(image.boxes, image.gt_boxes[:0]).shape == (20, 0)
    assert pairwise_iou(image.boxes[:0], image.gt_boxes).shape == (0, 7)
