"""What the panels of a dashboard name, and what is logged of a cell under these names."""

import wandb

from ard.tracking import WandbLogger, log_cell


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


def logged_of(cell):
    """Return what is logged to W&B of a cell, by key."""
    logger, row = WandbLogger(cell.folder), {}
    logger._experiment = wandb.init(mode="disabled")
    logger._experiment.log = row.update
    log_cell(logger, cell, {})
    return row
