"""What training gives: every figure of the trained dictionary beside the same figure of dictionaries never trained."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ard.evaluation.functional import paired_difference
from ard.evaluation.match import METRICS
from ard.results import CONTROL_METHODS, Figure, Result, Row, trained_in
from ard.run import RAW_METHODS, Cell, Run

EVALUATIONS = (
    "matching",
    "matching_paper",
    "stated_labels",
    "label_auroc",
    "detection",
    "name_axes",
    "name_similarity",
    "naming",
    "probes",
    "monosemanticity",
    "steering",
)
UNTRAINED = CONTROL_METHODS["untrained"]
NUM_RESAMPLES = 2000


class Gain(NamedTuple):
    """A figure of the trained dictionary, its mean over the untrained ones, and the difference."""

    trained: Figure
    untrained: Figure
    difference: Figure
    paired: str | None  # over what the difference is paired


def measure_gain(run: Run) -> Result | None:
    """Compare the run's own dictionary with its untrained controls, and write ``gain.json`` into its cell.

    Each figure's difference is paired where the evaluation keeps what to pair: answers of the same clips, AUROCs of
    the same labels, resamples of the same clips. The draws of the control are resampled with them. Elsewhere the
    variances of the two figures, and that of the control's draws, are added up (a normal interval).

    Returns:
        The result, one row per figure (and shift), with ``trained``, ``untrained`` and ``gain``; None where the run has
        no untrained control.
    """
    own, controls = run.own, [cell for cell in run.controls(run.layer, run.expansion) if cell.control == "untrained"]
    rows = [
        Row(
            f"{evaluation}/{name}",
            own.layer,
            own.expansion,
            {"trained": gain.trained, "untrained": gain.untrained.of_control(), "gain": gain.difference},
            source=row.source,
            target=row.target,
            note=f"paired over {gain.paired}" if gain.paired else None,
        )
        for evaluation in EVALUATIONS
        for row, name, gain in _gains(own, controls, evaluation, run.seed)
    ]
    if not rows:
        return None
    choices = {"control": UNTRAINED, "num_draws": len(controls), "num_resamples": NUM_RESAMPLES}
    choices |= trained_in(own.result(evaluation) for evaluation in EVALUATIONS)
    result = Result("gain", tuple(rows), choices, {"names_minus": _minus_others(run)}, run.seed)
    result.save(own.result_path("gain"))
    return result


def _gains(own: Cell, controls: Sequence[Cell], evaluation: str, seed: int) -> Iterator[tuple[Row, str, Gain]]:
    trained, drawn = own.result(evaluation), [cell.result(evaluation) for cell in controls]
    untrained = [result for result in drawn if result is not None]
    if trained is None or not untrained:
        return
    pairs = _PAIRS.get(evaluation)
    for row in trained.rows:
        if row.method != own.method or row.layer != own.layer:
            continue
        others = [other for result in untrained for other in result.rows if _is_counterpart(other, row)]
        for name, figure in row.figures.items():
            theirs = [other.figures[name] for other in others if name in other.figures]
            theirs = [other for other in theirs if math.isfinite(other.value)]
            if not theirs or not math.isfinite(figure.value):
                continue
            paired = pairs and pairs(own, controls, row, name, seed)
            gain = paired or unpaired_gain(figure, theirs)
            over = gain.over.removesuffix(" and draws") if paired and gain.over else None
            yield row, name, Gain(figure, Figure.pooled(theirs), gain, over)


def _is_counterpart(other: Row, row: Row) -> bool:
    return other.method == UNTRAINED and (other.source, other.target) == (row.source, row.target)


def paired_gain(
    trained: Float[np.ndarray, " things"],
    untrained: Float[np.ndarray, "draws things"],
    unit: str,
    *,
    over: str,
    seed: int,
) -> Figure:
    """Return the mean of trained - untrained over the same things, such as clips, with a bootstrap interval.

    Each resample draws the things, and the untrained dictionaries, with replacement.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.gain import paired_gain
        >>> gain = paired_gain(np.array([1.0, 1.0, 0.0]), np.array([[0.0, 1.0, 0.0]]), "share", over="clips", seed=0)
        >>> round(gain.value, 3)
        0.333
    """
    rng, (num_draws, n) = np.random.default_rng(seed), untrained.shape
    differences = trained - untrained
    things = rng.multinomial(n, np.full(n, 1 / n), NUM_RESAMPLES) / n
    draws = rng.multinomial(num_draws, np.full(num_draws, 1 / num_draws), NUM_RESAMPLES) / num_draws
    resampled = ((draws @ differences) * things).sum(axis=1)
    over = f"{over} and draws" if num_draws > 1 else over
    return Figure.resampled(np.append(differences.mean(), resampled), n, unit, over=over)


def unpaired_gain(trained: Figure, untrained: Sequence[Figure]) -> Figure:
    """Return the difference of a figure to its mean over draws; its interval adds up all variances (normal)."""
    values = np.array([figure.value for figure in untrained])
    value = trained.value - float(values.mean())
    between = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    within = np.mean([_variance(figure) for figure in untrained]) / len(values)
    margin = 1.96 * math.sqrt(_variance(trained) + between + within)
    over = f"{trained.over or 'samples'} and draws"
    return Figure(value, value - margin, value + margin, trained.n, trained.unit, over=over)


def _variance(figure: Figure) -> float:
    """Return the variance that a figure's interval stands for; NaN where it has none."""
    return ((figure.high - figure.low) / 3.92) ** 2


def _by_clip(own: Cell, controls: Sequence[Cell], row: Row, name: str, seed: int) -> Figure | None:
    """Pair the resamples of Table 1, which are of the same clips in every cell."""
    return names_minus(own, own.method, controls, UNTRAINED, name, row.figures[name].n, seed)


def names_minus(
    own: Cell, method: str, others: Sequence[Cell], other: str, name: str, num_clips: int, seed: int
) -> Figure | None:
    """Return a figure of Table 1 of one method minus that of another, in cells of its own; None without resamples."""
    cells = [cell for cell in (own, *others) if cell.path("resamples").is_file()]
    if len(cells) <= len(others) or name not in METRICS:
        return None
    column = list(METRICS).index(name)
    stored = [
        cell.tensors("resamples").get(of) for cell, of in zip(cells, (method, *[other] * len(others)), strict=True)
    ]
    values = [tensor[..., column].numpy() for tensor in stored if tensor is not None]
    if len(values) < len(cells):
        return None
    return paired_difference(values[0], np.concatenate(values[1:]), n=num_clips, seed=seed).figure


def _minus_others(run: Run) -> dict[str, dict[str, Any]]:
    """Return by how much AR&D's names are better than those of each other dictionary, paired over clips."""
    own, matching = run.own, run.own.result("matching")
    if matching is None:
        return {}
    num_clips = next(row for row in matching.rows if row.method == own.method).figures["f1"].n
    by_method: dict[str, list[Cell]] = {}
    for cell in (*run.controls(run.layer, run.expansion), *(run.cell(run.layer, label) for label in RAW_METHODS)):
        if cell.result("matching") is not None:
            by_method.setdefault(cell.method, []).append(cell)
    minus: dict[str, dict[str, Any]] = {}
    for method, cells in by_method.items():
        for name in METRICS:
            if (figure := names_minus(own, own.method, cells, method, name, num_clips, run.seed)) is not None:
                minus.setdefault(method, {})[name] = {key: getattr(figure, key) for key in ("value", "low", "high")}
    return minus


def _by_label(own: Cell, controls: Sequence[Cell], row: Row, name: str, seed: int) -> Figure | None:
    """Pair the AUROCs of the labels that every dictionary was measured on."""
    results = [cell.result("label_auroc") for cell in (own, *controls)]
    per_label = [result.details["per_label"] for result in results if result is not None]
    labels = sorted(set.intersection(*(set(of) for of in per_label)))
    if name not in ("mean_auroc", "share_found") or not labels:
        return None
    areas = np.array([[of[label]["auroc"] for label in labels] for of in per_label])
    result = results[0]
    assert result is not None
    values = areas if name == "mean_auroc" else (areas >= result.choices["found"]).astype(float)
    return paired_gain(values[0], values[1:], row.figures[name].unit, over="labels", seed=seed)


def _by_answer(own: Cell, controls: Sequence[Cell], row: Row, name: str, seed: int) -> Figure | None:
    """Pair the steered answers of the same clips, where every judge's verdict could be read."""
    if name != "sensitivity":
        return None
    reached = [of for cell in (own, *controls) if (of := _reached(cell, row)) is not None]
    clips = sorted(set.intersection(*(set(of) for of in reached))) if reached else []
    if len(reached) < 2 or not clips:
        return None
    values = np.array([[of[clip] for clip in clips] for of in reached])
    return paired_gain(values[0], values[1:], row.figures[name].unit, over="clips", seed=seed)


def _reached(cell: Cell, row: Row) -> Mapping[str, float] | None:
    result = cell.result("steering")
    tasks: Mapping[str, Any] = result.details["tasks"] if result else {}
    reached = tasks.get(f"{row.source} to {row.target}", {}).get("reached")
    return reached and {clip: value for clip, value in reached.items() if value is not None}


_PAIRS = {"matching": _by_clip, "label_auroc": _by_label, "steering": _by_answer}
