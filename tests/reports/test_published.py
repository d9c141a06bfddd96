"""Reports beside published figures."""

import json
import re

from studies import a_sweep, rows_of

from rpn_jax.files import write_text
from rpn_jax.reports.comparison import compute_figures
from rpn_jax.reports.published import agreement, published_header
from rpn_jax.reports.results import gather
from rpn_jax.sweeps.published import Published


def published(ours="AR@100", **values):
    values = values or {"1": 68.9, "10": 69.9, "100": 69.1}
    names = {f"rpn.loss.balance={key}": value for key, value in values.items()}
    return Published("Ren et al., table 9", "mAP", names, ours)


def test_the_published_figure_stands_beside_ours(sweep):
    out, printed = sweep
    markdown = (out / "report/report.md").read_text()
    assert "| recall@0.5 | recall@0.7 | published mAP |" in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| 1 (base) | 2 of 2 |"))
    assert row.endswith("| 100.0 ± 0.0 | 68.9 |")
    assert "| 100 | 0 of 2 | – | – | – | – | 69 |" in markdown
    assert "The published mAP is that of Ren et al., table 9, in per cent." in markdown
    assert re.search(r"^1 \(base\) .*100.0 ± 0.0 +68.9", printed, re.MULTILINE)
    rows = rows_of(out / "report/settings.csv")
    assert [row["published mAP"] for row in rows] == ["0.689000", ""]
    runs = rows_of(out / "report/runs.csv")
    assert [run["published mAP"] for run in runs[::2]] == ["0.689000", "", "0.690000", ""]


def test_what_agrees_and_what_does_not(source, dataset, tmp_path):
    # Here 10 > 1 > 100, all of it clear; there 10 > 100 > 1.
    shares = {"1": 0.72, "10": 0.92, "100": 0.3}
    study = gather([a_sweep(tmp_path, source, dataset, shares, published=published())])
    text, table = agreement(study, compute_figures(study))
    assert text.text.startswith(
        "Beside mAP of Ren et al., table 9: 2 of 3 pairs of settings stand in the published order "
        "by their mean AR@100. Pairs that differ here by more than noise (p < 0.05, "
    )
    assert "corrected for the number of pairs): 3." in text.text
    assert "published difference in these: the same in 2, the opposite in 1." in text.text
    one, hundred = "rpn.loss.balance=1", "rpn.loss.balance=100"
    assert text.text.endswith(
        f"What does not agree: {one} is above {hundred} here by +50.0, there −0.2."
    )
    assert table.header == ["pair", "AR@100 here", "published mAP", "sign there"]
    assert [str(cell) for cell in table.rows[1]] == [
        *(f"{one} above {hundred}", "+50.0 +50.0 to +50.0 p < 0.001", "−0.2", "the opposite")
    ]


def test_many_pairs_are_folded(source, dataset, tmp_path):
    shares = {"1": 0.52, "2": 0.59, "3": 0.72, "4": 0.82, "5": 0.92}
    beside = published(**{name: 100 * (1 - share) for name, share in shares.items()})
    study = gather([a_sweep(tmp_path, source, dataset, shares, published=beside)])
    text, fold = agreement(study, compute_figures(study))
    assert text.text.endswith("; and 2 more.")  # of ten pairs in the opposite order
    assert fold.title == "The 10 pairs that differ by more than noise"
    assert len(fold.parts[0].rows) == 10


def said(out) -> str:
    """What a report would say about the published figures, without its plots."""
    study = gather([out])
    (text,) = agreement(study, compute_figures(study))
    return text.text


def test_what_cannot_be_compared(source, dataset, tmp_path):
    a_sweep(tmp_path, source, dataset, {"1": 0.72, "10": 0.72}, published=published())
    assert "0 of 1 pairs of settings stand in the published order" in said(tmp_path)
    assert said(tmp_path).endswith(
        "nothing here agrees with the published figures or contradicts them."
    )
    record = json.loads((tmp_path / "sweep.json").read_text())

    def changed(beside):
        write_text(tmp_path / "sweep.json", json.dumps(record | {"published": beside.to_json()}))

    changed(published("AP50"))
    assert said(tmp_path) == (
        "Not compared with mAP of Ren et al., table 9: these runs have no AP50."
    )
    changed(published(**{"1": 68.9, "1000": 60.0}))
    assert said(tmp_path).endswith("fewer than two settings have both figures.")


def test_the_column_has_its_place(sweep):
    study = gather([sweep[0]])
    header = published_header(study._replace(published=published()), compute_figures(study))
    assert header[:2] == ["AR@100", "published mAP"]
    header = published_header(study._replace(published=published("AP50")), compute_figures(study))
    assert header[-2:] == ["recall@0.7", "published mAP"]
