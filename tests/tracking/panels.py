"""What the panels of a dashboard name, and what a run has under these names."""

from ard.results import Result


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


def tables_shown(view):
    """Return the names of the tables that panels show."""
    queries = [config["panel2Config"]["exp"]["fromOp"] for kind, config in panels_of(view) if kind == "Weave"]
    return {query["inputs"]["key"]["val"] for query in queries}


def figures_logged(paths, method):
    """Return the keys under which the figures of result files are logged for a cell of that method."""
    keys = set()
    for result in map(Result.load, paths):
        for row in result.rows:
            of = [] if row.method == method else [row.method]
            shift = [f"{row.source} to {row.target}"] if row.source else []
            keys.update("/".join([result.evaluation, *of, *shift, name]) for name in row.figures)
    return keys
