"""What `ard plan` says, beside arithmetic, beside a GPU and beside this project's CPU benchmark: docs/plan.md.

`python -m experiments.plan` writes the page. The plan is made anew; what was measured is in docs/bench-gpu.json and
docs/bench.json.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ard.plan import StagePlan, machine, plan
from ard.plan.gpus import GPUS
from ard.presets import preset_files
from ard.results import replacing
from ard.steps import TABLES

DOCS = Path(__file__).parent.parent / "docs"
CORES, GPU, FILES = 8, "H100", ("extract", "fit", "test", "steer")

PAGE = """# Is the plan right?

Made by `python -m experiments.plan`. What [`ard plan`](run.md#the-papers-setting) says of the paper's preset, beside:

- arithmetic: an estimate by hand for one {gpu} and {cores} cores, made before the plan counted cores and disks, from
  the code, data sheets and a few timings on a CPU. It is good to some 40 %.
- measurement: [bench-gpu.md](bench-gpu.md), made on one {card}. The plan for that card stands beside it.

{gpus}

The arithmetic for float32 is of torch's own gathers; the kernels that are used now are faster. Its times of one core
were taken on a busy machine. The benchmark of the GPU neither decodes nor resamples the clips that it prepares.

## On a CPU, at small size

A run of the embedded models ([bench.md](bench.md)), in which one core stands in for the GPU: planned from the speed of
a large matrix product and of a copy. What so small a run takes besides is not planned: calls, small products, loops in
Python. TopK is planned as a GPU makes it, which a CPU makes in its cache; and CLAP's features as those of LAION's CLAP,
whose windows are longer than the embedded model's.

{cpu}

## What one core needs

The plan's own figures, beside what [the benchmark](bench.md) measured.

{core}
"""


class Compared(NamedTuple):
    """A figure: what it is, its unit, the plan of it for a GPU, the arithmetic, and where it was measured."""

    what: str
    unit: str
    planned: Callable[[str], float]
    arithmetic: float | None = None
    measured: Callable[[Mapping[str, Any]], float] | None = None


@cache
def _paper(evaluation: bool) -> dict[str, Any]:
    return preset_files("paper", {} if evaluation else {"evaluation": None}, FILES)


@cache
def _stages(
    gpu: str, expansions: tuple[int, ...] = (), precision: str = "bf16-mixed", products: str = "highest", batch: int = 0
) -> tuple[StagePlan, ...]:
    """Plan the paper's preset, or one layer with some expansions, or captions in batches of another size."""
    facts, goals = deepcopy(_paper(not expansions)), TABLES[3:] if expansions else TABLES
    if expansions:
        facts |= {"layers": [26], "expansions": list(expansions), "expansion": expansions[0], "num_untrained": 0}
    facts["fit"]["trainer"]["precision"] = precision
    facts["fit"]["model"]["init_args"]["float32_products"] = products
    for callback in facts["test"]["trainer"]["callbacks"]:
        if batch and callback["class_path"].endswith("NameConcepts"):
            callback["init_args"]["clips_per_batch"] = batch
    return plan(facts, goals, gpu=gpu, cores=CORES, disk=Path()).stages


def _stage(name: str, *args: Any, **settings: Any) -> StagePlan:
    return next(stage for stage in _stages(*args, **settings) if stage.stage == name)


def _step(expansions: tuple[int, ...], *arithmetic: str) -> Callable[[str], float]:
    """Return the milliseconds of the GPU in a step."""

    def of(gpu: str) -> float:
        training = _stage("SAE training", gpu, expansions, *arithmetic)
        return 1000 * training.gpu_s / (training.num_tokens / 4096)

    return of


def _row(section: str, **of_row: Any) -> Callable[[Mapping[str, Any]], float]:
    """Return the milliseconds of the row of a section of docs/bench-gpu.json that has these entries."""

    def of(kept: Mapping[str, Any]) -> float:
        rows = kept["sections"][section]["rows"]
        (row,) = (row for row in rows if of_row.items() <= row.items())
        return float(row["ms a step"])

    return of


def _of_clips(column: str, per: str | None = None) -> Callable[[Mapping[str, Any]], float]:
    def of(kept: Mapping[str, Any]) -> float:
        (row,) = (row for row in kept["sections"]["extraction"]["rows"] if row["what"] == "clips of 10 s")
        return float(row[column]) / (float(row[per]) if per else 1)

    return of


def _captions(gpu: str) -> StagePlan:
    return _stage("captions", gpu, batch=32)


def _a_clip(stage: str, of: str) -> Callable[[str], float]:
    """Return the milliseconds of GPU or core that a stage takes for a clip."""
    return lambda gpu: 1000 * getattr(_stage(stage, gpu), of) / _stage(stage, gpu).num_clips


def _trainings(gpu: str) -> float:
    return sum(stage.gpu_hours for stage in _stages(gpu) if stage.stage == "SAE training")


def _audio_minutes(gpu: str) -> float:
    sets = [stage for stage in _stages(gpu) if stage.stage == "audio shards" and stage.part in ("probe", "eval")]
    return sum(stage.cpu_s for stage in sets) / 60


def _reading_minutes(gpu: str) -> float:
    probing, extraction = _stage("probing", gpu, (8,)), _stage("extraction", gpu, (8,))
    return probing.cpu_s / 60 / (probing.num_tokens / extraction.num_tokens)


COMPARED = (
    Compared("audio shards of both sets, one process", "min", _audio_minutes, 35),
    Compared(
        "extraction, the GPU",
        "ms a clip",
        _a_clip("extraction", "gpu_s"),
        9,
        _of_clips("ms a batch", "clips a batch"),
    ),
    Compared(
        "extraction, one core",
        "ms a clip",
        _a_clip("extraction", "cpu_s"),
        28,
        _of_clips("ms of one core to prepare a clip"),
    ),
    *(
        Compared(f"training step, e {e}, {name}", "ms", _step((e,), *arithmetic), ms, _row("steps", e=e, **row))
        for name, arithmetic, all_ms, row in (
            ("bfloat16", ("bf16-mixed",), (7.2, 13.5, 19.5), {"arithmetic": "bfloat16", "products": "fastest"}),
            ("TF32", ("32-true", "high"), (10.6, 20, 40), {"arithmetic": "tf32", "products": "fastest"}),
            ("float32", ("32-true",), (43, 56, 82), {"arithmetic": "float32", "products": "fastest"}),
        )
        for e, ms in zip((4, 8, 16), all_ms, strict=True)
    ),
    Compared(
        "training step, e 4, 8 and 16 side by side, in the loop",
        "ms",
        _step((4, 8, 16)),
        40,
        _row("loop", training="e [4, 8, 16]"),
    ),
    Compared("training of nine SAEs, the GPU", "h", _trainings, 3.4),
    Compared("probing, a pass at e 8, the GPU", "min", lambda gpu: _stage("probing", gpu, (8,)).gpu_s / 60, 3.4),
    Compared("probing, reading for a pass", "min", _reading_minutes, 6.5),
    Compared("CLAP embedding, the GPU", "ms a clip", _a_clip("CLAP embedding", "gpu_s"), 3),
    Compared("CLAP embedding, one core", "ms a clip", _a_clip("CLAP embedding", "cpu_s"), 36),
    Compared("captions in batches of 32, the GPU", "h", lambda gpu: _captions(gpu).gpu_hours, 3),
    Compared("captions, one core", "min", lambda gpu: _captions(gpu).cpu_s / 60, 40),
    Compared("steering in batches of 16, the GPU", "ms an answer", _a_clip("steering", "gpu_s"), 120),
    Compared("disk", "GB", lambda gpu: sum(stage.num_bytes for stage in _stages(gpu)) / 1e9, 916),
)
"""The arithmetic was made by a review of the code in November 2026."""

CORE = {
    "FLAC encoded": 1e9 * machine.ENCODE_S,
    "FLAC decoded": 1e9 * machine.DECODE_S,
    "resampled": 1e9 * machine.RESAMPLE_S,
    "mel features": 1000 * machine.MEL_S,
    "prompt": 1000 * machine.PROMPT_S,
    "CLAP's features": 1000 * machine.CLAP_S,
    "whole clips read for probing": machine.PROBE_S,
}
"""The plan's figures for the rows of `python -m experiments.bench preparing`, in their units."""


def card_of(kept: Mapping[str, Any]) -> str | None:
    """Return the name among the plan's GPUs of the card that docs/bench-gpu.json was made on, if it is one of them."""
    words = str(kept["machine"]["card"]).replace(",", "").split()
    return next((name for name in GPUS if name in words), None)


def compared(kept: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of plan, arithmetic and measurement on a GPU."""
    card, rows = card_of(kept), []
    for what, unit, planned, arithmetic, measured in COMPARED:
        on_card = [_text(planned(card)), _text(measured(kept))] if card and measured else ["", ""]
        rows.append([what, unit, _text(planned(GPU)), "" if arithmetic is None else _text(arithmetic), *on_card])
    return rows


def page(on_gpu: Mapping[str, Any], on_cpu: Mapping[str, Any]) -> str:
    """Return the page, from what docs/bench-gpu.json and docs/bench.json keep."""
    card = str(on_gpu["machine"]["card"]).split(",")[0]
    heads = ["", "unit", f"plan, {GPU}", f"arithmetic, {GPU}", f"plan, {card}", f"measured, {card}"]
    lines = {line["what"]: line for line in on_cpu["preparing"]["lines"]}
    core = [[what, lines[what]["unit"], _text(own), _text(lines[what]["value"])] for what, own in CORE.items()]
    return PAGE.format(
        gpu=GPU,
        cores=CORES,
        card=card,
        gpus=_table(heads, compared(on_gpu)),
        cpu=_on_cpu(on_cpu["planning"]),
        core=_table(["", "unit", "plan", "measured"], core),
    )


def _on_cpu(kept: Mapping[str, Any]) -> str:
    """Return the stages of the small run."""
    seconds = {line["what"]: line["value"] for line in kept["lines"] if line["unit"] == "s"}
    rows = []
    for what in (what for what in seconds if what.endswith(", planned")):
        stage = what.removesuffix(", planned")
        planned, measured = seconds[what], seconds[f"{stage}, measured"]
        rows.append([stage, _text(planned), _text(measured), _text(measured / planned)])
    return f"{kept['machine']}\n\n{_table(['', 'planned, s', 'measured, s', 'measured / planned'], rows)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    words = [all(not row[place][:1].isdigit() for row in rows) for place in range(len(heads))]
    rule = " | ".join("---" if is_word else "---:" for is_word in words)
    return "\n".join([f"| {' | '.join(heads)} |", f"| {rule} |", *(f"| {' | '.join(row)} |" for row in rows)])


def _text(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def main() -> None:
    """Write the page."""
    kept = (json.loads((DOCS / name).read_text(encoding="utf-8")) for name in ("bench-gpu.json", "bench.json"))
    with replacing(DOCS / "plan.md") as partial:
        partial.write_text(page(*kept), encoding="utf-8")


if __name__ == "__main__":
    main()
