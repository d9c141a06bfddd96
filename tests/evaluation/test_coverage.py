import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpn_jax.evaluation.coverage import (
    Coverage,
    best_centred_iou,
    centred_iou,
    cluster_sizes,
)
from rpn_jax.ops.anchors import cell_anchors
from rpn_jax.ops.boxes import pairwise_iou
from rpn_jax.tables import format_table

RATIOS = (0.5, 1.0, 2.0)


def shapes_of(sizes, ratios=RATIOS):
    return np.array([(s * r**0.5, s / r**0.5) for r in ratios for s in sizes])


def random_shapes(rng, count):
    return np.exp(rng.uniform(np.log(4), np.log(300), (count, 2)))


def mean_iou(sizes, objects):
    return best_centred_iou(shapes_of(sizes), objects).mean()


class TestCentredIou:
    def test_by_hand(self):
        # Contained: 2·3 of 4·6. Crossing: 2·2 shared of 2·8 + 6·2 - 4 = 24. Equal: 1.
        iou = centred_iou(np.array([[2.0, 3], [2, 8], [4, 6]]), np.array([[4.0, 6], [6, 2]]))
        np.testing.assert_allclose(iou[0, 0], 6 / 24)
        np.testing.assert_allclose(iou[1, 1], 4 / 24)
        np.testing.assert_allclose(iou[2, 0], 1)

    def test_is_the_iou_of_boxes_with_one_centre(self):
        a, b = np.split(random_shapes(np.random.default_rng(0), 30).astype(np.float32), 2)
        boxes_a, boxes_b = (np.concatenate([-x, x], axis=1) / 2 for x in (a, b))
        np.testing.assert_allclose(centred_iou(a, b), pairwise_iou(boxes_a, boxes_b), rtol=1e-5)
        np.testing.assert_allclose(best_centred_iou(a, b), centred_iou(a, b).max(axis=0))

    @settings(max_examples=25, deadline=None)
    @given(
        width=st.floats(1, 500),
        height=st.floats(1, 500),
        ratio=st.floats(0.1, 10),
        logs=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    )
    def test_falls_with_the_logarithm_of_the_quotient_of_sizes(self, width, height, ratio, logs):
        near, far = sorted(logs, key=abs)
        sizes = np.sqrt(width * height) * np.exp([near, far, -far])
        at_near, at_far, at_opposite = centred_iou(
            shapes_of(sizes, [ratio]), np.array([[width, height]])
        )[:, 0]
        assert at_near >= at_far - 1e-12
        np.testing.assert_allclose(at_far, at_opposite)


class TestClusterSizes:
    @pytest.mark.parametrize("seed", range(4))
    def test_no_choice_among_the_objects_sizes_is_better(self, seed):
        objects = random_shapes(np.random.default_rng(seed), 11)
        for count in (1, 2, 4):
            chosen = cluster_sizes(objects, count, RATIOS)
            choices = itertools.combinations(np.sqrt(objects.prod(axis=1)), count)
            best = max(mean_iou(sizes, objects) for sizes in choices)
            np.testing.assert_allclose(mean_iou(chosen, objects), best, rtol=1e-6)
            assert sorted(chosen) == chosen
            assert len(chosen) == count

    def test_groups_of_objects_cost_next_to_nothing(self):
        # 3000 objects are more than the groups; one size can be sought on a fine grid instead.
        objects = random_shapes(np.random.default_rng(0), 3000)
        (size,) = cluster_sizes(objects, 1, RATIOS)
        best = max(mean_iou([s], objects) for s in np.geomspace(4, 300, 400))
        assert mean_iou([size], objects) > best - 2e-3

    def test_lloyd_iterations_find_nothing_better(self):
        objects = random_shapes(np.random.default_rng(0), 600)
        ours = mean_iou(cluster_sizes(objects, 4, RATIOS), objects)
        grid = np.geomspace(4, 300, 200)
        iou = np.stack([best_centred_iou(shapes_of([size]), objects) for size in grid])
        for seed in range(5):
            chosen = np.random.default_rng(seed).choice(len(grid), 4, replace=False)
            for _ in range(20):
                nearest = iou[chosen].argmax(axis=0)
                chosen = [iou[:, nearest == c].sum(axis=1).argmax() for c in range(4)]
            assert iou[chosen].max(axis=0).mean() < ours + 2e-3

    def test_sizes_that_are_there_are_found(self):
        objects = np.repeat(shapes_of([10, 40, 160]), [1, 2, 3, 1, 2, 3, 1, 2, 3], axis=0)
        shuffled = np.random.default_rng(0).permutation(objects)
        np.testing.assert_allclose(cluster_sizes(shuffled, 3, RATIOS), [10, 40, 160])

    def test_fewer_objects_than_sizes(self):
        np.testing.assert_allclose(cluster_sizes(np.array([[8.0, 8], [2, 2]]), 5, [1]), [2, 8])

    def test_shapes_are_those_of_the_anchors(self):
        cells = cell_anchors((16, 32), RATIOS)
        np.testing.assert_allclose(cells[:, 2:] - cells[:, :2], shapes_of((16, 32)), rtol=1e-6)


def test_the_tables_of_a_coverage():
    coverage = Coverage(
        # Sizes 20, 20, 40, 200 and aspects 1, 4, 1, 1.
        shapes=np.float32([[20, 20], [40, 10], [40, 40], [200, 200]]),
        image=np.array([0, 0, 0, 7]),
        best_iou=np.float32([0.5, 0.25, 0.7, 1.0]),
        centred_iou=np.array([0.6, 0.3, 0.7, 1.0]),
        positives=np.array([1, 0, 3, 8]),
    )
    assert coverage.positives_per_image().tolist() == [4, 8]
    histogram, breakdown, positives = str(coverage).split("\n\n")
    lines = [line.split() for line in histogram.splitlines()]
    assert [line[1] for line in lines[1:]] == list("0010010101")
    assert lines[3] == ["0.2-0.3", "1", "25.0"]
    rows = {line[:15].strip(): line[15:].split() for line in breakdown.splitlines()[1:]}
    # mean of 0.5, 0.25, 0.7, 1 = 0.6125; 3 of 4 reach 0.5, 2 reach 0.7; 12 positives.
    assert rows["all objects"] == ["4", "0.613", "75.0", "50.0", "3.0", "25.0"]
    assert rows["16-32"] == ["2", "0.375", "50.0", "0.0", "0.5", "50.0"]
    assert rows[">= 3:1"] == ["1", "0.250", "0.0", "0.0", "0.0", "100.0"]
    assert rows["1:1.4-1.4:1"][0] == "3"
    assert "64-128" not in rows
    assert "mean 6.0, median 6, least 4 (2 images with objects)" in positives


def test_a_table_is_aligned():
    table = format_table([["", "n", "%"], ["a longer heading"], ["of", "10", "5.0"]])
    assert table == "     n    %\na longer heading\nof  10  5.0"
