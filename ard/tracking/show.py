"""What loggers can show besides single numbers; one that cannot is passed over."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from torch import Tensor

MOST_BINS = 64

Plotted = Mapping[str, tuple[Sequence[float | int], Sequence[float | int | None]]]
"""Lines of a plot: x and y of each, by its name in the legend; y is None where it is not defined."""


def show_histogram(logger: Logger, name: str, values: Tensor, step: int | None = None) -> None:
    """Log how values are distributed, without those that are NaN; nothing if there are none."""
    values = values.detach().flatten()
    values = values[values.isfinite()].float().cpu()
    if not len(values):
        return
    if isinstance(logger, LightningWandbLogger):
        logger.log_metrics({name: histogram(values)}, step)  # type: ignore[dict-item]
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_histogram(name, values, step)


def histogram(values: Tensor) -> wandb.Histogram:
    """Return W&B's histogram of finite values."""
    return wandb.Histogram(np_histogram=np.histogram(values.double().numpy(), bins=MOST_BINS))


def lines(plotted: Plotted, *, title: str, x: str) -> Any:
    """Return W&B's plot of some lines."""
    xs, ys = [list(line[0]) for line in plotted.values()], [list(line[1]) for line in plotted.values()]
    return wandb.plot.line_series(xs, ys, keys=list(plotted), title=title, xname=x, split_table=True)


def overlaid(values: Mapping[str, Tensor], *, title: str, x: str) -> Any:
    """Return W&B's plot of several histograms over the same bins: how many values each bin has, by name."""
    finite = {name: of[of.isfinite()].double().numpy() for name, of in values.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), bins=MOST_BINS)
    centres = ((edges[:-1] + edges[1:]) / 2).tolist()
    counts = {name: (centres, np.histogram(of, edges)[0].tolist()) for name, of in finite.items()}
    return lines(counts, title=title, x=x)
