"""The concept report: a folder of static HTML that works offline and from ``file://``, a page for every concept."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pyarrow.parquet as pq

from ard.reports.atlas import atlas
from ard.reports.concepts import finite, read_concepts
from ard.reports.doses import dose_drawings
from ard.reports.draws import draw_drawings
from ard.reports.effects import effect_drawings
from ard.reports.headline import headline
from ard.reports.layers import layer_drawings
from ard.reports.listing import listing
from ard.reports.notes import diagnoses
from ard.reports.pages import Pages, page_of
from ard.reports.sounds import show_sounds
from ard.reports.strips import Strips, clips_of, spaced
from ard.reports.table import interval_text, paper_text, value_text
from ard.reports.tables import build_tables
from ard.reports.templates import templates
from ard.results import Figure, git_commit, replacing, write_text
from ard.run import Run, readable

NUM_BEST = 6
"""Concepts on the first screen."""

EVALUATIONS = ("matching", "monosemanticity", "steering", "label_auroc")
ASSETS = ("report.css", "report.js", "browse.js")
PAGE = re.compile(r"\d+-\d+\.html")
"""A concept's page, by layer and feature."""


def write_report(run: Path) -> Path:
    """Write ``report/`` of a run's folder and return its first page, ``index.html``, which is written last.

    Beside it are ``concepts/<layer>-<feature>.html``, ``assets/``, ``audio/`` with the clips that are shown, and
    ``map.json``, where the concepts lie on the map. What earlier reports left there is removed.

    Raises :class:`ard.types.UserError` if the folder is not a run's, or a file of it is damaged. The page says whatever
    else is missing.
    """
    opened = Run.load(run)
    folder = opened.report.parent
    features = read_concepts(opened.own) if opened.own.path("concepts").is_file() else []
    rows = sorted((row for row in features if row["selected"]), key=_best_first)
    clips = _clips(opened)
    sounds = show_sounds(opened.audio_splits, clips_of(rows), folder / "audio")
    places = atlas(opened.own, [row["feature"] for row in rows], folder / "map.json")
    strips = Strips(opened.own, clips, sounds)
    pages = Pages(opened, rows, strips)
    common = {
        "run": opened,
        "model": Path(opened.model).name if Path(opened.model).is_absolute() else opened.model,
        "version": version("ard-audio"),
        "num_clips": len(clips),
        "has_levels": strips.has_levels,
        "has_places": strips.has_places,
    }
    for name in ASSETS:
        write_text(folder / "assets" / name, template_text(name))
    write_text(folder / "assets" / "concepts.js", listing(rows, clips, sounds, places, len(clips)))
    _write_concepts(pages, folder / "concepts", common)
    best = [pages.concept(place) for place in best_places(rows)]
    write_text(
        opened.report,
        _template("overview.html").render(
            **common, **_overview(opened, features, rows), best=best, places=places, root=""
        ),
    )
    return opened.report


def _clips(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return the rows of clips.parquet by id; none without it."""
    with readable(run.clips):
        rows = pq.read_table(run.clips).to_pylist() if run.clips.is_file() else []
        return {str(row["id"]): row for row in rows}


def best_places(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the places of the concepts that are shown first: the best of each name, and none whose name fails."""
    named = [place for place, row in enumerate(rows) if row["name"] is not None and row.get("passes") is not False]
    first: dict[str, int] = {}
    for place in sorted(named, key=lambda place: -(finite(rows[place].get("score")) or 0.0)):
        first.setdefault(rows[place]["name"].casefold(), place)
    return list(first.values())[:NUM_BEST] or list(range(len(rows)))[:NUM_BEST]


def template_text(name: str) -> str:
    """Return one of the files that pages are made of, as ``report.css`` and ``report.js``."""
    return files("ard.reports").joinpath("template", name).read_text(encoding="utf-8")


def _overview(run: Run, features: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the first page says of the whole run."""
    return {
        "written": datetime.now(UTC),
        "commit": git_commit(),
        "headline": headline(run),
        "num_features": len(features),
        "num_dead": sum(row["n_active"] == 0 for row in features),
        "num_selected": len(rows),
        "num_named": sum(row["name"] is not None for row in rows),
        "pages": {row["feature"]: page_of(row) for row in rows},
        "tables": build_tables(run.folder),
        "doses": {drawing.task: drawing for drawing in dose_drawings(run)},
        "draws": draw_drawings(run),
        "layers": {drawing.task: drawing for drawing in layer_drawings(run)},
        "diagnoses": diagnoses(run.results("steering", [run.layer], [run.expansion])),
        "scatters": effect_drawings(run),
        "truth": _truth(run),
        "failures": _failures(run),
        "choices": list(_choices(run)),
    }


def _write_concepts(pages: Pages, folder: Path, common: Mapping[str, Any]) -> None:
    """Write the page of every concept, and remove those of concepts that are no more."""
    template, written = _template("concept.html"), set()
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(len(pages.rows)):
        concept = pages.concept(place)
        text = template.render(**common, concept=concept, chance=pages.chance, root="../", num_concepts=len(pages.rows))
        with replacing(folder / concept.page, synced=False) as partial:
            partial.write_text(text, encoding="utf-8")
        written.add(concept.page)
    for path in folder.iterdir():
        if PAGE.fullmatch(path.name) and path.name not in written:
            path.unlink()


@cache
def _template(name: str) -> jinja2.Template:
    environment = templates()
    environment.filters |= {"value": value_text, "interval": interval_text, "paper": paper_text, "fixed": _fixed}
    return environment.get_template(name)


def _fixed(number: float | None, digits: int = 2) -> str:
    return "–" if number is None else f"{number:,.{digits}f}"


def _best_first(row: Mapping[str, Any]) -> tuple[bool, float, bool, int]:
    """Sort features by m; where clips have no embedding, and so no feature has an m, those with a name come first."""
    m = finite(row["m"])
    return m is None, -(m or 0.0), row["name"] is None, row["feature"]


class Truth(NamedTuple):
    """How well single features detect the labels: figures over all labels, and each label's best feature and AUROC."""

    figures: list[tuple[str, Figure]]
    labels: list[tuple[str, float | None, int | None]]


def _truth(run: Run) -> Truth | None:
    results = run.results("label_auroc", [run.layer], [run.expansion])
    rows = [(result, row) for result in results for row in result.rows if row.expansion is not None]
    if not rows:
        return None
    result, row = rows[0]
    per_label = result.details.get("per_label", {})
    labels = [(spaced(label), finite(best.get("auroc")), best.get("feature")) for label, best in per_label.items()]
    return Truth(
        figures=[(name.replace("_", " "), figure) for name, figure in row.figures.items()],
        labels=sorted(labels, key=lambda label: (-(label[1] or 0.0), label[0])),
    )


def _failures(run: Run) -> list[Mapping[str, str]]:
    with readable(run.failures):
        return json.loads(run.failures.read_text(encoding="utf-8"))["failures"] if run.failures.is_file() else []


def _choices(run: Run) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for evaluation in EVALUATIONS:
        for result in run.results(evaluation, [run.layer], [run.expansion])[-1:]:
            yield evaluation.replace("_", " "), result.choices
