import numpy as np
import pytest

from rpn_jax.visualize.canvas import ORANGE, SKY_BLUE, WHITE, YELLOW, Canvas, Stroke

# At 600 pixels a length in a stroke is one in pixels.
BLANK = np.full((400, 600, 3), 100, np.uint8)
STROKES = [
    Stroke(ORANGE),
    Stroke(ORANGE, 3, alpha=0.4),
    Stroke(ORANGE, 3, dash=4, halo=True),
    Stroke(ORANGE, 0, dot=True),
]


def touched(canvas):
    """The pixels that differ from the blank image."""
    return (canvas.pixels != BLANK).any(axis=-1)


def test_a_line_lies_just_inside_its_box():
    canvas = Canvas(BLANK, 600)
    canvas.draw(np.array([[10.0, 20.0, 30.0, 60.0]]), Stroke(ORANGE, 2))
    expected = np.zeros((400, 600), bool)
    expected[20:60, 10:30] = True
    expected[22:58, 12:28] = False
    np.testing.assert_array_equal(touched(canvas), expected)
    assert (canvas.pixels[expected] == ORANGE).all()


def test_alpha_is_the_same_everywhere_on_a_line():
    canvas = Canvas(BLANK, 600)
    canvas.draw(np.array([[10.0, 20.0, 30.0, 60.0]]), Stroke(WHITE, 2, alpha=0.2))
    # 0.8 * 100 + 0.2 * 255
    assert np.unique(canvas.pixels[touched(canvas)]).tolist() == [131]


def test_dashes_are_as_long_as_the_gaps():
    canvas = Canvas(BLANK, 600)
    canvas.draw(np.array([[0.0, 0.0, 40.0, 40.0]]), Stroke(ORANGE, 1, dash=5))
    assert touched(canvas)[0, :40].tolist() == (5 * [True] + 5 * [False]) * 4


@pytest.mark.parametrize("stroke", STROKES)
@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 600, 400],
        [-500, -500, 5000, 5000],
        [-50, 100, -10, 120],
        [650, 10, 700, 50],
        [50, 50, 50, 50],
        [599, 399, 600, 400],
    ],
)
def test_any_box_may_be_drawn(stroke, box):
    canvas = Canvas(BLANK, 600)
    canvas.draw(np.array([box], float), stroke)
    assert canvas.pixels.shape == BLANK.shape
    # Nothing appears far from the line (a rim of one pixel, a dot of four).
    x1, y1, x2, y2 = np.clip(np.array(box) + [-5, -5, 5, 5], 0, [600, 400, 600, 400])
    assert not np.delete(touched(canvas), slice(y1, y2), axis=0).any()
    assert not np.delete(touched(canvas), slice(x1, x2), axis=1).any()


def test_small_images_are_enlarged_and_boxes_with_them():
    image = np.full((20, 30, 3), 100, np.uint8)
    canvas = Canvas(image, 600)
    assert canvas.pixels.shape == (400, 600, 3)
    canvas.draw(np.array([[10.0, 10.0, 20.0, 15.0]]), Stroke(ORANGE, 1))
    rows, columns = np.nonzero(touched(canvas))
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [200, 200, 400, 300]


def test_the_image_is_copied():
    image = BLANK.copy()
    Canvas(image, 600).draw(np.array([[0.0, 0.0, 50.0, 50.0]]), STROKES[0])
    np.testing.assert_array_equal(image, BLANK)


def test_a_mask_is_tinted_and_outlined():
    canvas, mask = Canvas(BLANK, 600), np.zeros((400, 600), bool)
    mask[100:200, 300:450] = True
    canvas.draw_mask(mask, Stroke(WHITE, 2, fill=0.2))
    # 0.8 * 100 + 0.2 * 255
    assert (canvas.pixels[105:195, 305:445] == 131).all()
    assert (canvas.pixels[100, 300:450] == WHITE).all()
    far = touched(canvas)
    far[98:202, 298:452] = False
    assert not far.any()


def test_a_masks_holes_and_parts_are_outlined_with_dashes():
    canvas, mask = Canvas(BLANK, 600), np.zeros((400, 600), bool)
    mask[100:200, 300:450] = mask[50:60, 50:60] = True
    mask[140:160, 350:400] = False
    canvas.draw_mask(mask, Stroke(ORANGE, 1, dash=5))
    drawn = touched(canvas)
    for line in (drawn[100, 300:450], drawn[139, 350:400], drawn[50, 50:60]):
        assert 0.3 <= line.mean() <= 0.8


def test_a_mask_of_other_rows_and_columns_is_stretched_without_steps():
    canvas = Canvas(np.full((20, 30, 3), 100, np.uint8), 600)
    mask = np.tri(40, 60, dtype=bool)
    canvas.draw_mask(mask, Stroke(ORANGE, 0, fill=1))
    expected = np.arange(400)[:, None] >= np.arange(600)[None]
    painted = (canvas.pixels == ORANGE).all(axis=-1)
    # Of steps of ten pixels, ten would be left along the whole edge.
    assert (painted != expected).sum() < 9 * 400
    edge = painted[50:350].argmin(axis=1)
    assert set(np.diff(edge).tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("stroke", STROKES)
def test_any_mask_may_be_drawn(stroke):
    for mask in (np.zeros((4, 6), bool), np.ones((4, 6), bool), np.ones((1, 1), bool)):
        Canvas(BLANK, 600).draw_mask(mask, stroke)
    canvas = Canvas(BLANK, 600)
    canvas.draw_mask(np.zeros((400, 600), bool), stroke)
    assert not touched(canvas).any()


def test_labels_do_not_cover_each_other_and_stay_inside():
    corner = np.array([0.0, 0.0, 40.0, 40.0])
    alone, crowded = Canvas(BLANK, 600), Canvas(BLANK, 600)
    alone.labels([(corner, "first", YELLOW)])
    crowded.labels([(corner, "first", YELLOW)] + 20 * [(corner, "later", SKY_BLUE)])
    first = touched(alone)
    assert first.any()
    np.testing.assert_array_equal(crowded.pixels[first], alone.pixels[first])
    # Above the box there is no place in the image, below and inside there is.
    assert touched(crowded).sum() > first.sum()


def test_labels_leave_the_rest_of_the_picture_free():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 300, (200, 2))
    labels = [(np.array([x, y, x + 9, y + 9]), "nucleus", ORANGE) for x, y in corners]
    covered = []
    for part in (1, 0.1):
        canvas = Canvas(BLANK, 600)
        canvas.labels(labels, most_covered=part)
        covered.append(touched(canvas).mean())
    assert 0.05 < covered[1] <= 0.1 < covered[0]


def test_finish_adds_title_and_legend():
    canvas = Canvas(BLANK, 600)
    bare = canvas.finish(None, [])
    np.testing.assert_array_equal(bare, BLANK)
    full = canvas.finish("A title", [(stroke, "what it means") for stroke in STROKES])
    top = next(y for y in range(len(full)) if (full[y] == 100).all())
    np.testing.assert_array_equal(full[top : top + 400], BLANK)
    assert (full[:top].min(), full[:top].max()) == (0, 255)
    # Four entries of some 130 pixels need a line or two; the strokes' colour is among them.
    legend = full[top + 400 :]
    assert 20 < len(legend) < 80
    assert (legend == ORANGE).all(axis=-1).any()


def test_a_long_legend_goes_on_in_the_next_line():
    canvas = Canvas(BLANK, 600)
    heights = [
        len(canvas.finish(None, n * [(STROKES[0], "a stroke and its long meaning")]))
        for n in (1, 2, 3, 5)
    ]
    assert heights[0] == heights[1] < heights[2] < heights[3]
