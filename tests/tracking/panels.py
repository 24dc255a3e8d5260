"""What the panels of a dashboard name, and what is logged of a cell under these names."""

from ard.results import Result
from ard.tracking import WandbLogger, log_cell
from ard.tracking.cells import _where


def panels_of(view):
    """Return the type and the config of every panel of a workspace's JSON."""
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    return [(panel["viewType"], panel["config"]) for section in sections for panel in section["panels"]]


def figures_shown(view):
    """Return the keys of evaluations' figures that panels name."""
    keys = set()
    for kind, config in panels_of(view):
        if kind == "Bar Chart":
            keys.update(config["metrics"])
        elif kind == "Scatter Plot":
            keys.update(config[axis] for axis in ("xAxis", "yAxis", "zAxis"))
        elif kind == "Parallel Coordinates Plot":
            keys.update(column["accessor"] for column in config["columns"])
    return {key.removeprefix("summary:") for key in keys if not key.startswith("config:")}


def plots_shown(view):
    """Return the keys of the plots of lines that panels show."""
    return {plot_of(config) for kind, config in panels_of(view) if kind == "Vega2"}


def plot_of(config):
    """Return the key of the plot that a chart shows, which reads the plot's table."""
    (query,) = config["userQuery"]["queryFields"]
    (table,) = [field for field in query["fields"] if field["name"] == "summaryTable"]
    key = table["args"][0]["value"]
    assert key.startswith("Custom Chart Tables/")
    assert key.endswith("_table")
    return key.removeprefix("Custom Chart Tables/").removesuffix("_table")


def tables_shown(view):
    """Return the names of the tables that panels show."""
    queries = [config["panel2Config"]["exp"]["fromOp"] for kind, config in panels_of(view) if kind == "Weave"]
    return {query["inputs"]["key"]["val"] for query in queries}


def figures_of(cell):
    """Return the keys of all figures of a cell's results; those of them that are defined are logged."""
    rows = [(result, row) for result in map(Result.load, cell.result_files) for row in result.rows]
    return {"/".join([*_where(result, row, cell), name]) for result, row in rows for name in row.figures}


def logged_of(cell):
    """Log a cell to W&B, and return what was logged, by key."""
    logger, row = WandbLogger(cell.folder), {}
    run = logger.experiment
    log = run.log
    run.log = lambda logged: (row.update(logged), log(logged))
    log_cell(logger, cell, {})
    return row
