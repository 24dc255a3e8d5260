"""`ard dashboard`: the W&B workspace of the runs of a project."""

from pathlib import Path

from rich.console import Console

from ard.tracking import build_dashboard, save_dashboard, write_dashboard


def dashboard(project: str = "ard", *, entity: str = "", out: Path | None = None) -> None:
    """Save a W&B workspace that shows the runs of a project, or write it to a file.

    Args:
        project: the W&B project that the runs are logged to.
        entity: the user or team that owns the project; a file does without.
        out: a JSON file to write in place of saving; it takes no account and no network.
    """
    workspace = build_dashboard(project, entity)
    if out is None:
        place = save_dashboard(workspace)
    else:
        write_dashboard(workspace, out)
        place = str(out)
    Console().print(f"dashboard: {place}", markup=False, highlight=False, soft_wrap=True)
