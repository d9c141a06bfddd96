"""Reports on runs that were measured in several ways."""

import json

import pytest
from studies import Page, a_sweep, evaluated, rows_of

from rpn_jax.files import write_text
from rpn_jax.reports.comparison import compute_figures
from rpn_jax.reports.report import write_report
from rpn_jax.reports.results import gather
from rpn_jax.sweeps.published import Published

WAYS = {
    "300": {},
    "100": {"rpn.proposals.test.post_nms_top_n": 100},
    "no-cls": {"without": ["ranking"]},
}


def measured(out, source, dataset, shares):
    """A sweep whose runs were measured in two more ways, but for the last run in the last way."""
    values = {"300": 56.8, "100": 55.1, "no-cls": 51.4}
    beside = Published("Ren et al., table 2", "mAP", values, "AR@100")
    a_sweep(out, source, dataset, shares, published=beside)
    record = json.loads((out / "sweep.json").read_text())
    record["runs"].pop()  # that was never begun
    record["evaluations"] = WAYS
    write_text(out / "sweep.json", json.dumps(record))
    folders = [out / run["folder"] for run in record["runs"]]
    for folder in folders:
        evaluated(folder, dataset, 0.62, name="train@100")
    for folder in folders[:-1]:
        evaluated(folder, dataset, 0.52, name="train@no-cls")
    return out


@pytest.fixture(scope="module")
def report(tmp_path_factory, source, dataset):
    out = measured(tmp_path_factory.mktemp("ways"), source, dataset, {"1": 0.92})
    return out, write_report([out])


def test_each_way_has_a_row(report):
    out, printed = report
    markdown = (out / "report/report.md").read_text()
    assert "6 evaluations of 2 runs, of 3 settings: 5 counted, 1 stopped." in markdown
    assert (
        "measured in several ways. 300: as in the config; 100: "
        "rpn.proposals.test.post\\_nms\\_top\\_n=100; no-cls: without ranking." in markdown
    )
    assert "| 300 (base) | 1 | 2 of 2 | 90.0 ± 0.0 | 56.8 |" in markdown
    assert "| no-cls | 1 | 1 of 2 | 16.7 | 51.4 |" in markdown
    assert "3 of 3 pairs of settings stand in the published order" in markdown
    assert "no-cls" in printed
    settings = rows_of(out / "report/settings.csv")
    assert [row["setting"] for row in settings] == ["300", "100", "no-cls"]
    assert [row["AR@100"] for row in settings] == ["0.900000", "0.383333", "0.166667"]


def test_what_is_of_the_training_stands_once(report):
    out, _ = report
    runs = rows_of(out / "report/runs.csv")
    one = "rpn.loss.balance=1,seed=0"
    assert [run["run"] for run in runs[:3]] == [one, f"{one}@100", f"{one}@no-cls"]
    assert [run["training seconds"] for run in runs] == ["40.0", "", "", "40.0", "", ""]
    assert {run["evaluation seconds"] for run in runs[:3]} == {"2.5"}
    assert runs[-1]["remark"].startswith("stopped at step 40 of 40")
    page = Page((out / "report/report.html").read_text())
    assert page.cells.count("rpn.loss.balance=1,seed=1@100") == 1
    assert (out / "report/report.md").read_text().count("--config=small.py") == 3


def test_ways_of_several_settings(source, dataset, tmp_path):
    study = gather([measured(tmp_path, source, dataset, {"1": 0.92, "10": 0.72})])
    names = [f"rpn.loss.balance={value},{way}" for value in (1, 10) for way in WAYS]
    assert list(study.settings) == names
    assert study.base == "rpn.loss.balance=1,300"
    assert study.labels(names[1]) == [names[1], "1"]
    assert list(compute_figures(study).settings) == names
    # One that changes nothing has no value of a field that others change.
    runs = [
        run._replace(overrides={} if run.setting == names[0] else run.overrides)
        for run in study.runs
    ]
    assert study._replace(runs=tuple(runs)).labels(names[0]) == [names[0], "–"]
