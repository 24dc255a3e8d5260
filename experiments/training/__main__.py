"""Train and measure a grid, or write the tables: ``python -m experiments.training``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ard.activations import read_manifest
from ard.results import write_json
from experiments.training.measure import measure_cell, read_data
from experiments.training.settings import GRIDS, train
from experiments.training.tables import write_tables

FOLDER = Path(__file__).parent.parent.parent / "docs"


def run_grid(options: argparse.Namespace) -> None:
    """Train and measure every setting of a grid, and remember what they were measured on."""
    data, vocabulary = read_data(
        options.activations, options.layer, options.evaluation, options.embeddings, options.num_selected
    )
    about = {
        "grid": options.grid,
        "num_clips": len(data.labels),
        "num_labels": len(vocabulary),
        "d_in": read_manifest(options.activations).d_in,
        "num_tokens": read_manifest(options.activations).num_tokens,
        "layer": options.layer,
        "num_selected": options.num_selected,
        "held_out": options.evaluation is not None,
    }
    write_json(options.work / "data.json", about)
    for setting, seed in GRIDS[options.grid]():
        folder = options.work / f"{setting.name}, seed {seed}"
        train(setting, seed, options.activations, options.layer, folder)
        measure_cell(folder, setting, seed, data)


def main(arguments: Sequence[str]) -> None:
    """Train and measure a grid, or write the tables of work folders."""
    parser = argparse.ArgumentParser(description="What training an SAE gives, beyond one that was never trained.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and measure the settings of a grid")
    run.add_argument("--grid", choices=GRIDS, required=True, help="the settings and seeds")
    run.add_argument("--activations", type=Path, required=True, help="folder of activation shards of labelled clips")
    run.add_argument("--layer", type=int, required=True, help="the layer to read")
    run.add_argument("--evaluation", type=Path, help="activation shards of other clips, for FVU and L0")
    run.add_argument("--embeddings", required=True, help="embeddings of the clips: a run's file, or computed:FOLDER")
    run.add_argument("--num-selected", type=int, default=200, help="C, the features that are chosen")
    run.add_argument("--work", type=Path, required=True, help="folder of what is finished")
    table = commands.add_parser("table", help="write docs/training.json and docs/training.md")
    table.add_argument("work", type=Path, nargs="+", help="work folders, the one to choose by first")
    table.add_argument("--out", type=Path, default=FOLDER, help="folder of the pages")
    options = parser.parse_args(arguments)
    if options.command == "table":
        write_tables(options.work, options.out)
    else:
        run_grid(options)


if __name__ == "__main__":
    main(sys.argv[1:])
