"""The table that stands first: what the trained dictionary has beyond dictionaries that were never trained."""

import math

from ard.reports import notes
from ard.reports.table import Cell, Line, Table
from ard.results import Row
from ard.run import Run

GAINS = {
    "matching/f1": "F1 (Table 1)",
    "matching/precision": "precision (Table 1)",
    "matching/recall": "recall (Table 1)",
    "matching/map": "mAP (Table 1)",
    "matching_paper/f1": "F1, the paper's rule",
    "stated_labels/unseen_precision": "names true on unseen clips",
    "probes/f1_k1": "label F1, 1 feature",
    "probes/f1_k4": "label F1, 4 features",
    "probes/absorption": "absorption, less is better",
    "label_auroc/share_found": "labels found",
    "label_auroc/mean_auroc": "label AUROC",
    "detection/auroc": "detection by name",
    "name_axes/share_pass": "names that pass their tests",
    "name_similarity/clap_cosine": "CLAP cosine (Table 2)",
    "steering/sensitivity": "steering (Table 3)",
    "monosemanticity/ms": "highest m (Table 4)",
    "monosemanticity/mean_ms": "mean m of the top C",
    "monosemanticity/mean_ms_top_share": "m of the top fifth",
    "monosemanticity/mean_ms_random_lowest_top_share": "the same, L at random",
    "monosemanticity/above_chance": "share above chance",
    "monosemanticity/above_chance_other_half": "above chance, other half",
    "monosemanticity/halves_agreement": "m, halves of the clips",
}
"""Figures of ``gain.json``, as the table names them."""

VERDICTS = ("better", "not told apart", "worse")


def verdict(row: Row) -> str:
    """Return what the interval of a gain says."""
    gain, sign = row.figures["gain"], -1 if row.figures["trained"].better == "lower" else 1
    if not (math.isfinite(gain.low) and math.isfinite(gain.high)):
        return VERDICTS[1]
    if gain.low <= 0 <= gain.high:
        return VERDICTS[1]
    return VERDICTS[0] if sign * gain.value > 0 else VERDICTS[2]


def gain_rows(run: Run) -> list[Row]:
    """Return the figures that are compared with those of untrained dictionaries, the better ones first."""
    results = run.results("gain", [run.layer], [run.expansion])
    rows = [row for result in results for row in result.rows if row.method in GAINS]
    return sorted(rows, key=lambda row: (VERDICTS.index(verdict(row)), list(GAINS).index(row.method)))


def gains_table(run: Run) -> Table:
    """Return the table of gains, those beyond the untrained dictionaries first."""
    rows, result = gain_rows(run), run.own.result("gain")
    lines = tuple(
        Line(
            (gain_name(row), verdict(row)),
            tuple(Cell(row.figures[name]) for name in ("trained", "untrained", "gain")),
            verdict(row) == VERDICTS[0],
        )
        for row in rows
    )
    return Table(
        number=0,
        preset=run.preset,
        title="What training gives: AR&D beside dictionaries of the same width and K that were never trained",
        stub_heads=("Figure", "Trained is"),
        heads=("AR&D", "Untrained SAE", "gain"),
        paper_heads=(),
        lines=lines,
        rows=tuple(_json(row) for row in rows),
        notes=tuple(_notes(run, rows, result.choices["num_draws"] if result is not None else 0)),
    )


def gain_name(row: Row) -> str:
    """Return what the table calls a figure."""
    return GAINS[row.method] + (f", {row.source} to {row.target}" if row.source else "")


def _json(row: Row) -> dict[str, object]:
    content: dict[str, object] = {"figure": row.method, "verdict": verdict(row), "layer": row.layer}
    content |= {"expansion": row.expansion, "method": "AR&D"}
    if row.source is not None:
        content |= {"source": row.source, "target": row.target}
    for name, figure in row.figures.items():
        content[name] = {key: getattr(figure, key) for key in ("value", "low", "high", "n", "over")}
    return content


def _notes(run: Run, rows: list[Row], num_draws: int) -> list[str]:
    if not rows:
        return [notes.left_out("it has no untrained dictionaries: set num_untrained", "gain")]
    told, apart = ([row for row in rows if (verdict(row) == VERDICTS[0]) is beyond] for beyond in (True, False))
    return [
        f"{len(told)} of {len(rows)} figures tell the trained dictionary from the untrained ones. The other "
        f"{len(apart)} are no evidence that training gave anything.",
        f"Untrained SAE: mean of {num_draws} draws ± standard deviation; its interval runs from the lowest draw to the "
        "highest. The gain's is a 95 % interval, paired over clips or labels where both were measured on the same; "
        "elsewhere variances are added up. docs/method.md says what each figure can show.",
    ]
