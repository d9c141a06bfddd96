import cv2
import numpy as np
import pytest

from rpn_jax.errors import UserError
from rpn_jax.visualize.boxes import (
    contact_sheet,
    draw_anchors,
    draw_found,
    draw_matches,
    draw_proposals,
    write_image,
)
from rpn_jax.visualize.canvas import GREEN, GREY, ORANGE, SKY_BLUE, VERMILLION, YELLOW

IMAGE = np.full((300, 400, 3), 90, np.uint8)
LONG = 400  # not enlarged


def at(picture, box, color):
    """Whether the outline of `box` shows `color` at most places of its left side."""
    x1, y1, _, y2 = (int(value) for value in box)
    column = picture[y1 + 2 : y2 - 2, x1]
    return (column == color).all(axis=-1).mean() > 0.3


class TestDrawProposals:
    objects = np.array([[20, 30, 120, 130], [200, 150, 280, 280], [320, 20, 380, 80]], np.float32)
    boxes = np.array([[24, 34, 120, 130], [300, 200, 390, 290], [320, 20, 380, 80]], np.float32)
    scores = np.array([0.6, 0.9, 0.1], np.float32)

    def draw(self, **options):
        return draw_proposals(IMAGE, self.boxes, self.scores, long_side=LONG, **options)

    def test_objects_found_and_missed(self):
        picture = self.draw(gt_boxes=self.objects, top_n=2)
        assert at(picture, self.objects[0], YELLOW)
        assert at(picture, self.boxes[0], SKY_BLUE)
        assert at(picture, self.objects[1], VERMILLION)
        # The third proposal would find it, but is not among the best two.
        assert at(picture, self.objects[2], VERMILLION)
        assert not at(self.draw(gt_boxes=self.objects, top_n=3), self.objects[2], VERMILLION)

    def test_the_required_iou_can_be_chosen(self):
        # The first proposal covers 96 x 96 of 100 x 100.
        for required, color in [(0.92, YELLOW), (0.93, VERMILLION)]:
            picture = self.draw(gt_boxes=self.objects[:1], found_iou=required)
            assert at(picture, self.objects[0], color)

    def test_ignored_objects_are_not_missed(self):
        ignore = np.array([False, True, True])
        picture = self.draw(gt_boxes=self.objects, gt_ignore=ignore, top_n=2)
        assert at(picture, self.objects[1], GREY)
        assert not (picture == VERMILLION).all(axis=-1).any()

    def test_without_objects_the_best_lies_on_top(self):
        boxes = np.array([[50, 50, 200, 200]] * 3, np.float32)
        scores = np.array([0.1, 0.9, 0.5], np.float32)
        together = draw_proposals(IMAGE, boxes, scores, long_side=LONG)
        # The brightest of the colour ramp, which a single box has too.
        alone = draw_proposals(IMAGE, boxes[:1], scores[1:2], long_side=LONG)
        np.testing.assert_array_equal(together[100, 50], alone[100, 50])
        assert alone[100, 50].max() > 200

    @pytest.mark.parametrize("gt_boxes", [None, objects, np.zeros((0, 4), np.float32)])
    def test_no_proposals(self, gt_boxes):
        boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        picture = draw_proposals(IMAGE, boxes, scores, gt_boxes=gt_boxes, long_side=LONG)
        assert picture.shape[1] == 400
        missed = gt_boxes is not None and len(gt_boxes) > 0
        assert (picture == VERMILLION).all(axis=-1).any() == missed

    def test_title_and_size(self):
        plain, titled = self.draw(), self.draw(title="Step 1000")
        assert titled.shape[0] > plain.shape[0] > 300
        np.testing.assert_array_equal(titled[-len(plain) :], plain)
        assert draw_proposals(IMAGE, self.boxes, self.scores).shape[1] == 1200

    def test_order_of_the_arguments_does_not_matter(self):
        order = [2, 0, 1]
        shuffled = draw_proposals(IMAGE, self.boxes[order], self.scores[order], long_side=LONG)
        np.testing.assert_array_equal(shuffled, self.draw())


def test_what_an_evaluation_found():
    objects, boxes = TestDrawProposals.objects, TestDrawProposals.boxes.copy()
    boxes[1] = np.nan
    picture = draw_found(IMAGE, objects[:2], boxes[:2], objects[2:], long_side=LONG)
    assert at(picture, objects[0], YELLOW)
    assert at(picture, boxes[0], SKY_BLUE)
    assert at(picture, objects[1], VERMILLION)
    assert at(picture, objects[2], GREY)
    # Of an image without objects nothing but the image is left.
    nothing = np.zeros((0, 4), np.float32)
    np.testing.assert_array_equal(
        draw_found(IMAGE, nothing, nothing, nothing, long_side=LONG), IMAGE
    )


class TestDrawMatches:
    def test_each_label_looks_different(self):
        anchors = np.array(
            [[20, 30, 120, 130], [200, 150, 280, 290], [300, 20, 380, 80]], np.float32
        )
        objects = np.array([[150, 20, 190, 90], [30, 200, 90, 290]], np.float32)
        picture = draw_matches(
            IMAGE, anchors, np.array([1, 0, -1]), objects, np.array([False, True]), long_side=LONG
        )
        assert (picture[80, 70] == SKY_BLUE).all()  # the positive's centre
        assert (picture[100, 20] != 90).any()  # and its outline
        assert (picture[220, 240] == ORANGE).all()  # the negative's centre
        assert (picture[240, 200] == 90).all()  # but no outline
        assert (picture[15:85, 295:385] == 90).all()  # nothing of what is not sampled
        assert at(picture, objects[0], YELLOW)
        assert at(picture, objects[1], GREY)

    def test_without_anything(self):
        nothing = np.zeros((0, 4), np.float32)
        picture = draw_matches(IMAGE, nothing, np.zeros(0, int), nothing, long_side=LONG)
        np.testing.assert_array_equal(picture, IMAGE)


class TestDrawAnchors:
    def test_a_margin_shows_what_lies_outside(self):
        anchors = np.array([[-40, 100, 60, 200], [380, 250, 430, 320]], np.float32)
        picture = draw_anchors(IMAGE, anchors, long_side=LONG)
        assert picture.shape[1] == 40 + 400 + 30
        # Size 50 * 70 = 59², the first of the palette; size 100, the second.
        assert at(picture, anchors[1] + [40, 0, 40, 0], SKY_BLUE)
        assert at(picture, anchors[0] + [40, 0, 40, 0], ORANGE)
        assert (picture[:5, 60:400] == 90).all()
        assert (picture[310:318, 100:400] == 225).all()

    def test_one_colour_for_each_size(self):
        anchors = np.array([[0, 0, 80, 20], [0, 0, 20, 80], [0, 0, 120, 120]], np.float32) + 100
        picture = draw_anchors(IMAGE, anchors, long_side=LONG)
        assert at(picture, anchors[0], SKY_BLUE)
        assert at(picture, anchors[1] + [0, 20, 0, 0], SKY_BLUE)
        assert not (picture == GREEN).all(axis=-1).any()


class TestContactSheet:
    def test_rows_are_as_wide_as_the_sheet(self):
        portrait = np.full((200, 100, 3), 10, np.uint8)
        landscape = np.full((100, 200, 3), 20, np.uint8)
        sheet = contact_sheet([portrait, landscape, portrait], 2, width=280, gap=10)
        # 250 pixels of pictures for shapes of 0.5 and 2: 100 high, 50 and 200 wide. The second
        # row is no higher, so its portrait is 50 wide too.
        assert sheet.shape == (10 + 110 + 110, 280, 3)
        assert (sheet[10:110, 10:60] == 10).all()
        assert (sheet[10:110, 70:270] == 20).all()
        assert (sheet[120:220, 10:60] == 10).all()
        assert (sheet[120:220, 60:] == 255).all()

    def test_needs_a_picture(self):
        with pytest.raises(ValueError, match="at least one"):
            contact_sheet([])


class TestWriteImage:
    image = np.zeros((30, 40, 3), np.uint8)
    image[:, 20:] = (200, 100, 50)

    def test_png_there_and_back(self, tmp_path):
        write_image(tmp_path / "new" / "folder" / "a.png", self.image)
        read = cv2.imread(str(tmp_path / "new" / "folder" / "a.png"))
        np.testing.assert_array_equal(read[..., ::-1], self.image)

    def test_jpeg_is_close_and_replaces(self, tmp_path):
        path = tmp_path / "a.JPG"
        path.write_text("an old file")
        write_image(path, self.image)
        read = cv2.imread(str(path))[..., ::-1].astype(int)
        assert np.abs(read - self.image).mean() < 3
        assert [file.name for file in tmp_path.iterdir()] == ["a.JPG"]

    @pytest.mark.parametrize("name", ["a.bmp", "a"])
    def test_other_suffixes_are_refused(self, tmp_path, name):
        with pytest.raises(UserError, match=r"use \.png or \.jpg"):
            write_image(tmp_path / name, self.image)
