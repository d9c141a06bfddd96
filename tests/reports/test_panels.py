import matplotlib
import numpy as np
import pytest

from rpn_jax.reports.panels import Line, plot_dots, plot_legend, plot_panel


@pytest.fixture
def svg_text():
    """SVG with its text as text instead of outlines."""
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


@pytest.fixture
def lines():
    x = np.arange(1.0, 40.0)
    y = np.where(x == 3, np.nan, x)
    return [Line("many", 0, x, y), Line("single", 0, x, y + 1, is_faint=True), Line("b", 8, x, -y)]


def test_a_panel(lines, tmp_path, svg_text):
    file = tmp_path / "panel.svg"
    labels = {"title": "A title", "x_label": "Steps", "y_label": "Recall (%)"}
    plot_panel(lines, file, **labels, log_x=True, in_percent=True, legend=True)
    svg = file.read_text()
    for text in ("A title", "Steps", "Recall (%)", ">many<", ">b<", ">40<"):
        assert text in svg
    # The axis fits what is in it, and no per cent are below 0.
    assert ">100<" not in svg
    assert "−" not in svg
    # A faint line has no place in the legend.
    assert ">single<" not in svg
    # Lines of one look share its colour; the ninth has the first one's neighbour's, dashed anew.
    assert svg.count("stroke: #0072b2") > 1
    assert "stroke-dasharray" in svg


def test_the_same_lines_give_the_same_file(lines, tmp_path):
    labels = {"title": "", "x_label": "", "y_label": ""}
    for name in ("a.svg", "b.svg"):
        plot_panel(lines, tmp_path / name, **labels)
    content = (tmp_path / "a.svg").read_bytes()
    assert content == (tmp_path / "b.svg").read_bytes()
    assert b"<dc:date>" not in content


def test_the_legend_names_every_look(tmp_path, svg_text):
    names = [f"setting {i}" for i in range(12)]
    plot_legend(names, tmp_path / "legend.svg")
    svg = (tmp_path / "legend.svg").read_text()
    assert all(f">{name}<" in svg for name in names)


@pytest.mark.filterwarnings("error")
def test_dots_beside_names_that_matplotlib_would_obey(tmp_path, svg_text):
    names = ["a$x$", "_hidden", "b" * 60 + "=1", "c\x1b\n"]
    lines = [Line(name, i, np.arange(2), np.array([i, i + 2.0])) for i, name in enumerate(names)]
    plot_dots(lines, tmp_path / "dots.svg", x_label="AR (%)")
    plot_legend(names, tmp_path / "legend.svg")
    for name in ("dots.svg", "legend.svg"):
        svg = (tmp_path / name).read_text()
        for text in ("a$x$", "_hidden", r"c\x1b\n"):
            assert f"{text}<" in svg
    assert f">…{'b' * 29}=1<" in (tmp_path / "dots.svg").read_text()
