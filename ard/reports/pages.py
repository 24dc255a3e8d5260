"""What stands on a concept's own page: its evidence, its clips, what it does, and what is near it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ard.reports import doses
from ard.reports.chance import Chance, chance_of, said_of
from ard.reports.concepts import finite
from ard.reports.listing import COLUMNS, Column
from ard.reports.nearness import Near, by_clips, by_cosine, by_name, directions
from ard.reports.strips import Strip, Strips, spaced
from ard.results import OWN_METHOD
from ard.run import Cell, Run

AXES = ("responsiveness", "purity", "sensitivity", "intruder")
USUAL_RATE = 0.05


class Link(NamedTuple):
    """Another concept: its name, whether this fails, the file of its page, and how near it is, if that is said."""

    name: str | None
    fails: bool
    page: str
    nearness: str = ""


class Effect(NamedTuple):
    """What setting the feature does on one task, and what its activity tells there."""

    task: str
    kind: str
    effect: str
    interval: str
    chance: str
    auroc: str
    q_value: str
    num_clips: int


class Found(NamedTuple):
    """A label that the feature was chosen for on the probing clips: its AUROC on unseen ones, and how many have it."""

    label: str
    auroc: float
    num_clips: int | None


class Dose(NamedTuple):
    """Dose and response where the feature was set, alone or together with others."""

    drawing: doses.Drawing
    by: str
    num_others: int


class Concept(NamedTuple):
    """One concept: what the catalogue says of it, and what else is known."""

    feature: int
    layer: int
    page: str
    name: str | None
    no_name_because: str | None
    made_from: str | None
    support: list[str]
    candidates: list[str]
    n_active: int
    hears: list[str]
    speaks: list[str]
    m: float | None
    m_said: str
    numbers: list[tuple[Column, float]]
    axes: list[tuple[Column, float | None, float | None]]  # of its name, and of other names
    fails: list[str]
    passes: bool | None
    modality: tuple[float, float | None, float | None] | None
    event: str | None  # the label whose time it tells best in the probing clips
    event_told: bool  # and on unseen clips better than by chance
    top: list[Strip]
    bottom: list[Strip]
    near: list[tuple[str, list[Link]]]
    effects: list[Effect]
    found: list[Found]
    doses: list[Dose]
    before: Link | None
    after: Link | None


class Pages:
    """Makes the pages of a run's concepts.

    Args:
        run: the run.
        rows: the concepts that have a page, in their order.
        strips: makes their clips.
    """

    def __init__(self, run: Run, rows: Sequence[Mapping[str, Any]], strips: Strips) -> None:
        self.cell, self.rows, self.strips = run.own, rows, strips
        self.chance: Chance | None = chance_of(self.cell)
        scored = self.cell.result("monosemanticity")
        self.rate = float(scored.choices.get("false_discovery_rate", USUAL_RATE)) if scored else USUAL_RATE
        self._links = {row["feature"]: Link(row["name"], row.get("passes") is False, page_of(row)) for row in rows}
        self._near = _near(self.cell, rows)
        self._effects = _effects(self.cell)
        self._found = _found(self.cell)
        self._doses = _doses(run)

    def concept(self, place: int) -> Concept:
        """Return what is on the page of the concept at a place in the order."""
        row = self.rows[place]
        feature = row["feature"]
        numbers = [(c, value) for c in COLUMNS if (value := finite(row.get(c.key))) is not None and c.key not in AXES]
        axes = [
            (column, finite(row[column.key]), finite(row.get(f"{column.key}_chance")))
            for column in COLUMNS
            if column.key in AXES and column.key in row
        ]
        index = finite(row.get("modality"))
        others = (finite(row.get("modality_low")), finite(row.get("modality_high")))
        return Concept(
            feature=feature,
            layer=row["layer"],
            page=page_of(row),
            name=row["name"],
            no_name_because=row.get("no_name_because"),
            made_from=row.get("made_from"),
            support=row.get("support") or [],
            candidates=row["candidates"] or [],
            n_active=row["n_active"],
            hears=row.get("hears") or [],
            speaks=row.get("speaks") or [],
            m=finite(row["m"]),
            m_said=said_of(row, self.rate),
            numbers=numbers,
            axes=axes,
            fails=list(row.get("fails") or ()) if row.get("passes") is False else [],
            passes=row.get("passes"),
            modality=None if index is None else (index, *others),
            event=row.get("event"),
            event_told=bool(row.get("event_told")),
            top=self.strips.top(row),
            bottom=self.strips.bottom(row),
            near=[
                (how, links) for how, near, unit in self._near if (links := self._linked(near.get(feature, ()), unit))
            ],
            effects=self._effects.get(feature, []),
            found=self._found.get(feature, []),
            doses=self._doses.get(feature, []),
            before=self._links[self.rows[place - 1]["feature"]] if place else None,
            after=self._links[self.rows[place + 1]["feature"]] if place + 1 < len(self.rows) else None,
        )

    def _linked(self, near: Sequence[Near], unit: str) -> list[Link]:
        digits = 0 if unit else 2
        return [
            self._links[of.feature]._replace(nearness=f"{of.nearness:.{digits}f}{unit}")
            for of in near
            if of.feature in self._links
        ]


def page_of(row: Mapping[str, Any]) -> str:
    """Return the file of a concept's page, in the folder of all such pages."""
    return f"{row['layer']}-{row['feature']}.html"


def _near(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[int, list[Near]], str]]:
    features = [row["feature"] for row in rows]
    vectors = directions(cell, features) if len(features) > 1 else None
    by_direction = by_cosine(vectors, features) if vectors is not None else {}
    return [
        ("by direction: cosine of their decoder rows", by_direction, ""),
        ("by clips: how many of the most representative they share", by_clips(rows), " shared"),
        ("by name: cosine of the names’ embeddings, or the same name", by_name(cell, rows), ""),
    ]


def _effects(cell: Cell) -> dict[int, list[Effect]]:
    effects: dict[int, list[Effect]] = {}
    for row in cell.rows("effects") if cell.path("effects").is_file() else ():
        q = finite(row["q_value"])
        effect = Effect(
            task=row["task"],
            kind=row["kind"],
            effect=f"{row['effect']:+.3f}",
            interval=f"[{row['effect_low']:+.3f}, {row['effect_high']:+.3f}]",
            chance=f"±{row['effect_by_chance']:.3f}",
            auroc="–" if q is None else f"{row['auroc']:.2f}",
            q_value="no clips to compare" if q is None else f"q = {q:.2g}",
            num_clips=row["num_clips"],
        )
        effects.setdefault(row["feature"], []).append(effect)
    return effects


def _found(cell: Cell) -> dict[int, list[Found]]:
    result, found = cell.result("label_auroc"), dict[int, list[Found]]()
    for label, best in (result.details.get("per_label", {}) if result is not None else {}).items():
        if best.get("feature") is not None and (auroc := finite(best.get("auroc"))) is not None:
            found.setdefault(best["feature"], []).append(Found(spaced(label), auroc, best.get("num_clips")))
    return {feature: sorted(labels, key=lambda one: -one.auroc) for feature, labels in found.items()}


def _doses(run: Run) -> dict[int, list[Dose]]:
    """Return by feature the dose and response of every setting that it was part of, on every task."""
    drawn: dict[int, list[Dose]] = {}
    for result in run.results("steering", [run.layer], [run.expansion]):
        for name, task in result.details.get("tasks", {}).items():
            for features, by, measured in _settings(task):
                if features and measured["dose_response"]:
                    drawing = doses.drawn(name, measured)
                    for feature in features:
                        drawn.setdefault(feature, []).append(Dose(drawing, by, len(features) - 1))
    return drawn


def _settings(task: Mapping[str, Any]) -> Iterator[tuple[list[int], str, dict[str, Any]]]:
    """Yield the features that were set together, how they were chosen, and what :func:`ard.reports.doses.drawn` takes.

    The first is the run's own choice; of the others only those that set features have any.
    """
    chosen = task.get("chosen", {})
    own = {"dose_response": task.get("dose_response"), "chosen": chosen}
    yield [one["feature"] for one in chosen.get("features", ())], f"chosen by {chosen.get('by')}", own
    for method, other in task.get("methods", {}).items():
        yield (
            other.get("features", []),
            method.replace("steered", OWN_METHOD),
            {"dose_response": other.get("dose_response"), "chosen": {"multiple": None}},
        )
