"""Train, measure, and write docs/truth.json and docs/truth.md: ``python -m experiments.truth``."""

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ard.results import sealed, unsealed, write_json
from experiments.truth.generator import Setting, World
from experiments.truth.measures import measure
from experiments.truth.tables import every, write_page
from experiments.truth.trainers import Size, Task, ready

FOLDER = Path(__file__).parent.parent.parent / "docs"
TEST_BATCHES, TEST_TOKENS = 20, 1024


def train_and_measure(name: str, k: int, seed: int, setting: Setting, size: Size) -> dict[str, Any]:
    """Train with a K and a seed, and measure."""
    world, train = World(setting, seed), ready(name)
    started = time.process_time()
    coder = train(Task(world, size, k, seed))
    seconds = time.process_time() - started
    figures = measure(coder, world, TEST_BATCHES, TEST_TOKENS)
    return {"trainer": name, "k": k, "seed": seed, "cpu_seconds": seconds, **figures}


def path_of(work: Path, name: str, k: int, seed: int) -> Path:
    """Return where a measurement is kept."""
    return work / f"{name.replace('`', '')}, K {k}, seed {seed}.json"


def kept(path: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier command of the same sizes measured."""
    content = unsealed(path.read_bytes()) if path.is_file() else None
    return content["cell"] if content and content["about"] == about else None


def main(arguments: Sequence[str]) -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.truth", description=__doc__)
    parser.add_argument("--width", type=int, default=Setting().width, help="dimensions of a token")
    parser.add_argument("--features", type=int, default=Setting().num_features, help="a multiple of the width")
    parser.add_argument("--steps", type=int, default=Size().steps, help="of every training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the tokens and the weights")
    parser.add_argument("--work", type=Path, default=Path("runs/truth"), help="folder of what is finished")
    parser.add_argument("--finished", action="store_true", help="train nothing: write the page of what is finished")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the page")
    options = parser.parse_args(arguments)
    if options.features % options.width:
        parser.error(f"--features is {options.features}: choose a multiple of --width, {options.width}")
    if len(set(options.seeds)) < 2:
        parser.error(f"--seeds is {options.seeds[0]} alone: name two or more, so that there is a spread")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    setting, size = Setting(options.width, options.features), Size(options.steps)
    about = {"setting": setting._asdict(), "size": size._asdict()}
    console, measured, l0 = Console(stderr=True), [], World(setting, 0).l0
    for seed in options.seeds:
        for name, k in every(l0):
            path = path_of(options.work, name, k, seed)
            cell = kept(path, about)
            if cell is None and not options.finished:
                console.print(f"seed {seed}, K {k}, {name}")
                cell = train_and_measure(name, k, seed, setting, size)
                write_json(path, sealed({"about": about, "cell": cell}))
            measured += [cell] if cell else []
    content = {
        "command": " ".join(["python -m experiments.truth", *(word for word in arguments if word != "--finished")]),
        **about,
        "test": {"num_batches": TEST_BATCHES, "num_tokens": TEST_TOKENS},
        "l0": l0,
        "seeds": options.seeds,
        "cells": measured,
    }
    write_page(content, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
