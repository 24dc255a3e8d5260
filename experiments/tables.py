"""Put a run's tables into experiments/table<N>/README.md: ``python -m experiments.tables runs/demo``.

Under the mark of each README comes what the paper's setting costs by `ard plan`, then the run's table as its Markdown
file has it, with date and machine; for Table 1 also what every other reading of the paper gives.
"""

import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from ard.plan import plan
from ard.presets import preset_files
from ard.run import Run
from ard.steps import Goal
from experiments.bench.report import machine
from experiments.readings import table as other_readings

FOLDER, MARK = Path(__file__).parent, "<!-- measured -->"


def cost(number: Goal) -> str:
    """Say what a table of the paper's setting costs alone, as a Markdown table and a line for the whole."""
    facts = preset_files("paper", {}, ("extract", "fit", "test", "steer"))
    made = plan(facts, [number], gpu="H100", utilisation=0.4, disk=Path())
    lines = [
        f"| {stage.stage} | {stage.part} "
        f"| {f'{stage.num_bytes / 1e9:,.1f} GB' if stage.num_bytes else ''} "
        f"| {f'{stage.flops:.1e}' if stage.flops else ''} | {f'{stage.hours:.2f}' if stage.hours else ''} |"
        for stage in made.stages
    ]
    disk = sum(stage.num_bytes for stage in made.stages)
    return "\n".join(
        [
            f"**Cost of the paper's setting** by `ard plan`: {made.hours:.0f} hours of one {made.gpu.name} at "
            f"{made.utilisation:.0%} of its data sheet, and {disk / 1e9:,.0f} GB of disk. A plan, not a measurement.",
            "",
            "| stage | part | disk | FLOPs | hours |",
            "| --- | --- | ---: | ---: | ---: |",
            *lines,
            "",
        ]
    )


def measured(number: Goal, run: Path) -> str:
    """Return the table of a run with date and machine."""
    made = Run(run).table(int(number), "md")
    when = date.fromtimestamp(made.stat().st_mtime)
    about = Run.load(run)
    head = f"**Measured** on {when}, preset {about.preset}, seed {about.seed}, by {machine().rpartition(';')[0]}:"
    parts = [head, "", made.read_text().strip(), ""]
    if number == 1:
        parts += ["**Every other reading**, each with one thing changed (`python -m experiments.readings`):", ""]
        parts += [other_readings(run).strip(), ""]
    return "\n".join(parts)


def write(run: Path, readmes: Mapping[Goal, Path]) -> None:
    """Write what belongs under the mark of each README."""
    for number, path in readmes.items():
        text, mark, _ = path.read_text().partition(MARK)
        if not mark:
            raise SystemExit(f"{path} has no line {MARK}")
        path.write_text("\n".join([text + mark, "", cost(number), measured(number, run)]))


if __name__ == "__main__":
    numbers: tuple[Goal, ...] = (1, 2, 3, 4)
    write(Path(sys.argv[1]), {number: FOLDER / f"table{number}" / "README.md" for number in numbers})
