"""The dashboard: a W&B workspace whose panels show what is logged, by its keys (docs/wandb.md)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ard.reports.gains import GAINS
from ard.reports.paper import CEILING, COMPARED, SHIFTS, SHUFFLED
from ard.results import write_json
from ard.types import UserError

STEP = "trainer/global_step"  # the step that Lightning's logger puts beside every figure

TRAINING = {
    "FVU": "fvu",
    "explained variance": "explained_variance",
    "loss": "loss|squared_error",
    "active features per token (L0)": "l0",
    "dead and rare features": "dead_share|rare_share",
    "selected features that are not positive": "not_positive_share",
    "norm of the gradient": "gradient_norm",
    "norms of the weights": "encoder_norm|decoder_norm",
    "learning rate": "learning_rate",
    "tokens seen": "tokens",
    "tokens per second": "tokens_per_s",
    "seconds waited for data": "waited_s",
    "share of tokens on which a feature is active": "firing_frequency",
    "norms of the decoder's rows": "decoder_norms",
}
"""The line plots of a training, and the figures in each, of one SAE or several, in training and on held-out tokens."""

GRID = ("monosemanticity/ms", "monosemanticity/mean_ms_top_share", "monosemanticity/above_chance")
CONCEPTS = ("monosemanticity/above_chance", "monosemanticity/halves_agreement", "detection/auroc")
NAMES = (
    "matching/f1",
    "matching/precision",
    "matching/recall",
    "matching/map",
    "label_auroc/mean_auroc",
    "name_similarity/clap_cosine",
)
RIVALS = (*COMPARED[1:-1], SHUFFLED, CEILING)
"""The methods whose names are held to the same labels as AR&D's, in the same cell."""

COLUMNS = ("config:method.value", "config:layer.value", "config:expansion.value", "summary:matching/f1")
"""What the list of runs shows of each."""

MOST_RUNS = 100  # in a panel, where W&B shows ten: one demo has more


def build_dashboard(project: str, entity: str = "") -> Any:
    """Return the workspace, not yet saved, as an object of wandb-workspaces.

    Args:
        project: the W&B project.
        entity: the user or team that owns it; only saving needs it.

    Raises:
        UserError: if wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports import v2 as panels
    except ImportError as error:
        raise UserError("a dashboard needs wandb-workspaces: pip install 'ard-audio[wandb-dashboard]'") from error

    def section(name: str, shown: Sequence[Any], columns: int) -> Any:
        layout = workspaces.SectionLayoutSettings(columns=columns, rows=math.ceil(len(shown) / columns))
        return workspaces.Section(name=name, panels=list(shown), is_open=True, layout_settings=layout)

    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="AR&D",
        sections=[
            section("Training", _training(panels), 3),
            section("Table 4: layers by expansions", _grid(panels), 2),
            section("Concepts", _concepts(panels), 2),
            section("Names against labels", _names(panels), 3),
            section("Steering", _steering(panels), 2),
        ],
        settings=workspaces.WorkspaceSettings(max_runs=MOST_RUNS),
        runset_settings=workspaces.RunsetSettings(pinned_columns=list(COLUMNS)),
    )


def write_dashboard(workspace: Any, out: Path) -> None:
    """Write a workspace as JSON; it needs no account.

    Raises:
        UserError: if the file cannot be written.
    """
    content = workspace._model.model_dump(mode="json", by_alias=True, exclude_none=True)  # as the library sends it
    try:
        write_json(out, content)
    except OSError as error:
        raise UserError(f"{str(out)!r} cannot be written ({error.strerror}): give --out another file") from error


def save_dashboard(workspace: Any) -> str:
    """Save a workspace to W&B, under the user's login, and return its address.

    Raises:
        UserError: if it has no entity, nobody is logged in, or W&B cannot be reached or refuses it.
    """
    if not workspace.entity:
        raise UserError("saving a dashboard needs --entity, the user or team that owns the project; --out does without")
    try:
        return str(workspace.save().url)
    except Exception as error:  # W&B's own have no common class
        reason = " ".join(str(error).split()).removesuffix(".")
        raise UserError(
            f"the dashboard of {workspace.entity}/{workspace.project} cannot be saved ({reason}): log in with `wandb "
            "login`, check --entity, --project and the network, or write it to a file with --out"
        ) from error


def _training(panels: Any) -> list[Any]:
    return [
        panels.LinePlot(title=title, x=STEP, metric_regex=rf"^(train|val)/(e[0-9]+/)?({figures})$")
        for title, figures in TRAINING.items()
    ]


def _grid(panels: Any) -> list[Any]:
    layer, expansion, method = (panels.Config(fact) for fact in ("layer", "expansion", "method"))
    axes = [method, layer, expansion, *(panels.SummaryMetric(key) for key in GRID)]
    return [
        panels.ParallelCoordinatesPlot(
            title="method, layer, expansion and m of every cell",
            columns=[panels.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes],
        ),
        *(
            panels.ScatterPlot(
                title=f"{GAINS[key]}, by layer and expansion", x=layer, y=panels.SummaryMetric(key), z=expansion
            )
            for key in GRID
        ),
        panels.WeavePanelSummaryTable(table_name="table4"),
    ]


def _concepts(panels: Any) -> list[Any]:
    return [
        panels.WeavePanelSummaryTable(table_name="concepts"),
        _plot(panels, "monosemanticity/null", "m, and m of random clips with the same L", "m"),
        _plot(panels, "monosemanticity/curve", "m by share of live features", "share"),
        *(_bars(panels, GAINS[key], key) for key in CONCEPTS),
    ]


def _names(panels: Any) -> list[Any]:
    rivals = (f"matching/{method}/f1" for method in RIVALS)
    return [
        *(_bars(panels, GAINS[key], key) for key in NAMES),
        _bars(panels, "F1 beside other representatives and names", "matching/f1", *rivals),
        _plot(panels, "matching/curves", "precision by recall", "recall"),
        *(panels.WeavePanelSummaryTable(table_name=name) for name in ("gains", "table1", "table2")),
    ]


def _steering(panels: Any) -> list[Any]:
    shifts = [f"{source} to {target}" for source, target in SHIFTS]
    return [
        *(_bars(panels, f"sensitivity, {shift}", f"steering/{shift}/sensitivity") for shift in shifts),
        *(_plot(panels, f"steering/doses/{shift}", shift, "multiple of the activation") for shift in shifts),
        panels.WeavePanelSummaryTable(table_name="table3"),
    ]


def _bars(panels: Any, title: str, *keys: str) -> Any:
    """Return a bar for every run and figure that it has."""
    return panels.BarPlot(title=title, metrics=list(keys), max_runs_to_show=MOST_RUNS, max_bars_to_show=MOST_RUNS)


def _plot(panels: Any, key: str, title: str, x: str) -> Any:
    """Return the panel of a plot of lines, as :func:`ard.tracking.show.lines` has W&B keep it."""
    return panels.CustomChart(
        query={"summaryTable": {"tableKey": f"Custom Chart Tables/{key}_table"}},
        chart_name="wandb/lineseries/v0",
        chart_fields={column: column for column in ("step", "lineKey", "lineVal")},
        chart_strings={"title": title, "xname": x},
    )
