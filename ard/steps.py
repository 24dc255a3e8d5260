"""The pipeline, written down once: its steps, what each needs and makes, and which cells each table takes.

`ard table` runs it, `ard plan` prices it, and the docs are generated from it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ard.types import UserError

TableNumber = Literal[1, 2, 3, 4]
Goal = TableNumber | Literal["concepts"]
"""The purpose of a run: a table of the paper, or the named concepts of the run's own cell."""

TABLES: tuple[TableNumber, ...] = (1, 2, 3, 4)
GOALS: tuple[Goal, ...] = (*TABLES, "concepts")

CellKey = tuple[int, int | str | None]
"""A layer, and an expansion; None for the raw coordinates (`Poly. Feats.`); or the name of a control's folder."""


RAW = (None, "half-waves")
"""The cells of raw coordinates, which are not trained."""


class Step(NamedTuple):
    """One step of the pipeline.

    Attributes:
        name: its name for ``--redo``.
        needs: the steps whose output it reads.
        makes: what it leaves in the run's folder.
        file: the YAML file of the preset that it runs; None for steps that run none.
        evaluators: class names of the evaluators in that file that it runs; None for all.
        evaluates: whether it reads the evaluation set besides the probing set.
        costly: whether it takes hours at full size; it is then repeated only on request.
        splits: for each goal, the splits of clips that it reads; only for steps without cells.
        cells: for each goal, its sets of cells; see :func:`cells_of`.
    """

    name: str
    needs: tuple[str, ...]
    makes: str
    file: str | None = None
    evaluators: tuple[str, ...] | None = None
    evaluates: bool = True
    costly: bool = False
    splits: Mapping[Goal, str] = {}
    cells: Mapping[Goal, tuple[str, ...]] = {}


STEPS = (
    Step(
        "audio",
        (),
        "audio/<split>/",
        costly=True,
        splits={1: "tested", 2: "tested", 3: "all", 4: "sets", "concepts": "tested"},
    ),
    Step(
        "extract",
        ("audio",),
        "activations/, activations-eval/, activations-made/, clips.parquet",
        "extract",
        costly=True,
        splits=dict.fromkeys(GOALS, "tested") | {4: "sets"},
    ),
    Step(
        "fit",
        ("extract",),
        "layer-<l>/e<e>/sae/",
        "fit",
        costly=True,
        cells={1: ("own", "layers"), 2: ("own",), 3: ("own",), 4: ("grid",), "concepts": ("own",)},
    ),
    Step(
        "control",
        ("fit",),
        "layer-<l>/e<e>-<control>-<draw>/sae/: dictionaries of the same width and K that were never trained",
        cells={1: ("controls",), 2: ("controls",), 3: ("controls",), 4: ("controls", "controls of layers")},
    ),
    Step(
        "test",
        ("fit", "control"),
        "layer-<l>/<cell>/: representatives, scores, names, concepts and the results of every evaluator",
        "test",
        cells={
            1: ("own", "poly", "half-waves", "controls", "layers"),
            2: ("own", "poly", "half-waves", "controls"),
            3: ("own", "poly", "half-waves", "controls"),
            "concepts": ("own",),
        },
    ),
    Step(
        "score",
        ("fit", "control"),
        "layer-<l>/<cell>/: representatives and monosemanticity alone",
        "test",
        evaluators=("RetrieveRepresentatives", "ScoreMonosemanticity"),
        evaluates=False,
        cells={4: ("grid", "polys", "half-waves of layers", "controls", "controls of layers")},
    ),
    Step(
        "steer",
        ("test", "audio"),
        "layer-<l>/<cell>/steering.json",
        "steer",
        cells={3: ("own", "poly", "half-waves", "controls")},
    ),
    Step("study", ("test",), "layer-<l>/<cell>/study.json", cells={2: ("own",)}),
)
"""All steps, in their order."""


class Work(NamedTuple):
    """One step on one split of clips, or on one cell."""

    step: Step
    split: str | None = None
    cell: CellKey | None = None

    def __str__(self) -> str:
        """Return the step and what it works on."""
        return listed([self])

    @property
    def place(self) -> str:
        """The split, or the cell within its layer."""
        if self.cell is None:
            return str(self.split)
        of = self.cell[1]
        return f"expansion {of}" if isinstance(of, int) else of or "Poly. Feats."


def listed(works: Sequence[Work]) -> str:
    """Return one line for a step's work on one split, or on one or several cells of a layer."""
    layer = f"layer {works[0].cell[0]}, " if works[0].cell else ""
    return f"{works[0].step.name}: {layer}{', '.join(work.place for work in works)}"


def work(facts: Mapping[str, Any], goals: Iterable[Goal]) -> list[Work]:
    """Return all the work for some goals, step by step, each item once.

    A cell that is tested is not scored separately: the test also retrieves and scores.

    Args:
        facts: the facts of a preset's ``run.yaml``.
        goals: what the run is for. Tables 1 to 3 need clips with labels (``evaluation``); without them they are no
            work.
    """
    wanted = [goal for goal in GOALS if goal in set(goals)]
    works: list[Work] = []
    for step in STEPS:
        splits = dict.fromkeys(s for goal in wanted if goal in step.splits for s in _splits(facts, step.splits[goal]))
        cells = dict.fromkeys(c for goal in wanted for kind in _kinds(facts, step, goal) for c in cells_of(facts, kind))
        if step.name == "score":
            tested = {one.cell for one in works if one.step.name == "test"}
            cells = dict.fromkeys(cell for cell in cells if cell not in tested)
        works += [Work(step, split=split) for split in splits]
        works += [Work(step, cell=cell) for cell in sorted(cells, key=_place)]
    return works


class Jobs(NamedTuple):
    """How the work for some tables is divided into jobs: one for what all cells share, one a cell, one to gather.

    Attributes:
        shares: the table whose part without cells includes that of all others.
        cells: for each layer and expansion, the tables that have work on it; most work first.
        tables: the tables to write when all cells are done.
    """

    shares: TableNumber
    cells: Mapping[tuple[int, int], tuple[TableNumber, ...]]
    tables: tuple[TableNumber, ...]


def jobs(facts: Mapping[str, Any], tables: Iterable[TableNumber]) -> Jobs:
    """Divide the work for some tables into jobs.

    Args:
        facts: the facts of a preset's ``run.yaml``.
        tables: the tables; those that the run has no labels for are left out.

    Raises:
        UserError: if no table is left.
    """
    wanted = list(tables)
    tables = tuple(table for table in wanted if trained(work(facts, [table])))
    if not tables:
        raise UserError(f"tables {wanted} have no cells: name one of 1 to 4; those up to 3 need an evaluation set")
    shares = max(tables, key=lambda table: sum(one.split is not None for one in work(facts, [table])))
    cells = {}
    for cell in trained(work(facts, tables)):
        of_cell: list[TableNumber] = []
        for table in (one for one in tables if cell in trained(work(facts, [one]))):
            before, after = (set(_of_cell(facts, goals, cell)) for goals in (of_cell, [*of_cell, table]))
            of_cell += [table] if after - before else []
        cells[cell] = tuple(of_cell)
    ordered = sorted(cells, key=lambda cell: -len(_of_cell(facts, cells[cell], cell)))
    return Jobs(shares, {cell: cells[cell] for cell in ordered}, tables)


def _of_cell(facts: Mapping[str, Any], tables: Sequence[TableNumber], cell: tuple[int, int]) -> list[str]:
    """Return what a job on a cell does; a study is scored when the tables are written."""
    works = work_on(work(facts, tables), [cell]) if tables else []
    return [str(one) for one in works if one.cell and one.step.name != "study"]


def trained(works: Iterable[Work]) -> list[tuple[int, int]]:
    """Return the layers and expansions that are trained, each of which can be a job of its own; see :func:`work_on`."""
    return [one.cell for one in works if one.step.name == "fit" and one.cell]  # type: ignore[misc]


def work_on(works: Iterable[Work], cells: Collection[tuple[int, int]]) -> list[Work]:
    """Return the work for some of the trained cells, with what they need and are compared with.

    These are all splits of clips, the controls of the cells, and the raw coordinates of their layers.
    """
    layers = {layer for layer, _ in cells}
    return [
        one
        for one in works
        if one.cell is None
        or one.cell in cells
        or (one.cell[0] in layers and one.cell[1] in RAW)
        or any(one.cell[0] == layer and str(one.cell[1]).startswith(f"e{e}-") for layer, e in cells)
    ]


def cells_of(facts: Mapping[str, Any], kind: str) -> list[CellKey]:
    """Return a set of cells.

    ``own`` is the run's cell, ``layers`` its expansion at the other layers, ``grid`` all layers and expansions;
    ``poly`` is the raw coordinates of its layer, ``polys`` those of all layers, and likewise ``half-waves``;
    ``controls`` are the dictionaries that were never trained beside the run's own: `Untrained SAE`, which is drawn
    ``num_untrained`` times, and `Random tokens`, drawn once.
    """
    layer, expansion, layers = facts["layer"], facts["expansion"], facts["layers"]
    num_untrained = facts["num_untrained"]
    drawn = [f"e{expansion}-untrained-{draw}" for draw in range(num_untrained)]
    drawn += [f"e{expansion}-tokens-0"] if num_untrained else []
    match kind:
        case "controls":
            return [(layer, control) for control in drawn]
        case "controls of layers":
            return [(other, control) for other in layers for control in drawn]
        case "half-waves":
            return [(layer, kind)]
        case "half-waves of layers":
            return [(other, "half-waves") for other in layers]
        case "own":
            return [(layer, expansion)]
        case "layers":
            return [(other, expansion) for other in layers if other != layer]
        case "grid":
            return [(any_layer, e) for any_layer in layers for e in facts["expansions"]]
        case "poly":
            return [(layer, None)]
        case _:
            return [(any_layer, None) for any_layer in layers]


def _place(cell: CellKey) -> tuple[int, int, int, str]:
    """Return where a cell goes: by layer, SAEs by expansion, then raw coordinates, then what was never trained."""
    layer, of = cell
    return layer, 2 if isinstance(of, str) else of is None, of if isinstance(of, int) else 0, str(of)


def has_made(facts: Mapping[str, Any]) -> bool:
    """Return whether new clips are made to test names on, beside those of the evaluation set."""
    return bool(facts["evaluation"] and facts["audio"].get("made"))


def width(of: int | str | None, d_in: int) -> int:
    """Return the number of features of a cell's dictionary."""
    if isinstance(of, str):
        return 2 * d_in if of == "half-waves" else int(of.split("-")[0].removeprefix("e")) * d_in
    return d_in * (of or 1)


def _kinds(facts: Mapping[str, Any], step: Step, goal: Goal) -> tuple[str, ...]:
    if goal in (1, 2, 3) and not facts["evaluation"]:
        return ()
    return step.cells.get(goal, ())


def _splits(facts: Mapping[str, Any], kind: str) -> list[str]:
    """Return the sets whose activations are extracted; with clips made to test names; or all splits of the preset."""
    sets = ["probe", *(["eval"] if facts["evaluation"] else [])]
    if kind != "sets" and has_made(facts):
        sets.append("made")
    others = [split for split in facts["audio"] if split != "made"] if kind == "all" else []
    return list(dict.fromkeys([*sets, *others]))
