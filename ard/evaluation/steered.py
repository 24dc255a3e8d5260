"""How the paper's way of steering compares with every other row of Table 3, on the same clips."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest

from ard.evaluation.functional import holm, paired_difference
from ard.results import OWN_METHOD, Figure, Result, Row, trained_in
from ard.run import RAW_METHODS, Cell, Run

ALPHA = 0.05
ABOVE, BELOW, EQUAL = "above", "below", "not told apart"
NUM_RESAMPLES = 2000

Reached = Mapping[str, float]
"""By clip: 1 where the steered answer is the target, 0 where it is not."""


class Compared(NamedTuple):
    """One shift against one other row."""

    source: str
    target: str
    other: str
    difference: Figure
    discordant: tuple[int, int] | None  # clips that only ours turned, and only the other
    p: float  # McNemar's, or for random draws that of the rank


def measure_steering_differences(run: Run) -> Result | None:
    """Compare the sensitivity of named features with every other row's, and write ``steering_differences.json``.

    A row's difference is paired over clips, by a bootstrap that resamples the groups of clips that have any, such as
    those of a speaker. Beside it is McNemar's exact test on the clips that only one of the two turned; of several draws
    of a control, the draw that is hardest to tell apart counts. Random features and directions have the rank of ours
    among them instead. The p-values of a row are Holm's over the shifts.

    Returns:
        The result; None where nothing was steered.
    """
    own = run.own
    result = own.result("steering")
    if result is None:
        return None
    found: list[Compared] = []
    for shift, task in result.details["tasks"].items():
        mine, (source, target) = _readable(task["reached"]), shift.split(" to ")
        for other, draws in _others(run, shift):
            found += _paired(source, target, other, mine, draws, task.get("groups", {}), run.seed)
        for other, key in (("Rand. Feats.", "random_features"), ("Rand. directions", "random_directions")):
            found += _ranked(source, target, other, task.get(key), result.seed)
    if not found:
        return None
    adjusted = _adjusted(found)
    tests = [
        {
            "source": one.source,
            "target": one.target,
            "other": one.other,
            "discordant": one.discordant,
            "p": one.p,
            "p_holm": p,
            "verdict": _verdict(one.difference.value, p),
        }
        for one, p in zip(found, adjusted, strict=True)
    ]
    rows = tuple(
        Row(one.other, own.layer, own.expansion, {"difference": one.difference}, one.source, one.target).as_control()
        for one in found
    )
    choices = {"alpha": ALPHA, "num_resamples": NUM_RESAMPLES, "over": "Holm over the shifts of a row"}
    choices |= trained_in([own.result("steering")])
    compared = Result("steering_differences", rows, choices, {"tests": tests}, run.seed)
    compared.save(own.result_path("steering_differences"))
    return compared


def pool_steering(runs: Sequence[Run]) -> Result | None:
    """Put Table 3 of runs with different seeds together, and write ``steering_seeds.json`` into the first one's cell.

    Returns:
        Every row's mean over the runs with its standard deviation, from the lowest to the highest run, and in how many
        runs AR&D is above the row, below it, or not told apart from it (``claims``); None with fewer than two runs that
        have both files.
    """
    steered = [(run, run.own.result("steering"), run.own.result("steering_differences")) for run in runs]
    complete = [(run, differences) for run, steering, differences in steered if steering and differences]
    if len(complete) < 2:
        return None
    figures: dict[tuple[str, str, str], list[Figure]] = {}
    for run, _ in complete:
        of_run: dict[tuple[str, str, str], list[Figure]] = {}
        for cell in _cells(run):
            result = cell.result("steering")
            for row in result.rows if result else ():
                key = row.method, str(row.source), str(row.target)
                of_run.setdefault(key, []).append(row.figures["sensitivity"])
        for key, draws in of_run.items():
            figures.setdefault(key, []).append(Figure.pooled(draws))
    claims = [
        {
            "source": source,
            "target": target,
            "other": other,
            **{verdict: count for verdict, count in counts.items() if count},
        }
        for (source, target, other), counts in _counted(differences for _, differences in complete).items()
    ]
    own = complete[0][0].own
    rows = tuple(
        Row(method, own.layer, own.expansion, {"sensitivity": _over_runs(of_runs)}, source, target)
        for (method, source, target), of_runs in figures.items()
        if len(of_runs) == len(complete) and not any(math.isnan(figure.value) for figure in of_runs)
    )
    seeds = [run.seed for run, _ in complete]
    choices = {"seeds": seeds, **trained_in(steering for _, steering, _ in steered)}
    pooled = Result("steering_seeds", rows, choices, {"claims": claims}, own.run.seed)
    pooled.save(own.result_path("steering_seeds"))
    return pooled


def _over_runs(figures: Sequence[Figure]) -> Figure:
    return replace(Figure.pooled(figures), over="runs, lowest to highest").of_control()


def _counted(results: Iterable[Result]) -> dict[tuple[str, str, str], Counter[str]]:
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for test in (test for result in results for test in result.details["tests"]):
        counts.setdefault((test["source"], test["target"], test["other"]), Counter())[test["verdict"]] += 1
    return counts


def _cells(run: Run) -> list[Cell]:
    """Return the run's own cell, those of raw coordinates, and those of controls."""
    raw = [run.cell(run.layer, label) for label in RAW_METHODS]
    return [run.own, *raw, *run.controls(run.layer, run.expansion)]


def _others(run: Run, shift: str) -> Iterator[tuple[str, list[Reached]]]:
    """Return every other row of a shift: those of the run's own dictionary, of raw coordinates and of controls."""
    rows: dict[str, list[Reached]] = {}
    for cell in _cells(run):
        task = _task(cell, shift)
        reached = {name: method["reached"] for name, method in task.get("methods", {}).items()}
        reached |= task.get("controls", {})
        if "reached" in task and cell.method != OWN_METHOD:
            reached["steered"] = task["reached"]
        for name, of_row in reached.items():
            rows.setdefault(name.replace("steered", cell.method), []).append(_readable(of_row))
    yield from rows.items()


def _task(cell: Cell, shift: str) -> Mapping[str, Any]:
    result = cell.result("steering")
    return result.details["tasks"].get(shift, {}) if result else {}


def _readable(reached: Mapping[str, float | None]) -> dict[str, float]:
    return {clip: value for clip, value in reached.items() if value is not None}


def _paired(
    source: str,
    target: str,
    other: str,
    mine: Reached,
    draws: Sequence[Reached],
    groups: Mapping[str, str],
    seed: int,
) -> Iterator[Compared]:
    clips = sorted(set(mine).intersection(*draws))
    if not clips:
        return
    own, others = (
        np.array([[mine[clip] for clip in clips]]),
        np.array([[draw[clip] for clip in clips] for draw in draws]),
    )
    labels = [groups.get(clip, clip) for clip in clips]
    members = np.unique(labels, return_inverse=True)[1]
    resampled = (_resampled(values, members, seed) for values in (own, others))
    over = "groups of clips" if len(set(labels)) < len(clips) else "clips"
    difference = paired_difference(*resampled, n=len(clips), over=over, unit="share of clips", seed=seed).figure
    tests = [mcnemar(own[0], draw) for draw in others]
    (gained, lost), p = max(tests, key=lambda test: test[1])
    yield Compared(source, target, other, difference, (gained, lost), p)


def _resampled(
    values: Float[np.ndarray, "draws clips"], members: np.ndarray, seed: int
) -> Float[np.ndarray, "draws resamples"]:
    """Return the mean of each draw, and of as many resamples of the groups as there are, the same for all draws."""
    num_groups = members.max() + 1
    counts = np.random.default_rng(seed).multinomial(num_groups, np.full(num_groups, 1 / num_groups), NUM_RESAMPLES)
    weights = np.vstack([np.ones(num_groups, dtype=int), counts])[:, members]
    return values @ weights.T / weights.sum(axis=1)


def mcnemar(own: Float[np.ndarray, " clips"], other: Float[np.ndarray, " clips"]) -> tuple[tuple[int, int], float]:
    """Return how many clips only one of two rows turned, and the exact two-sided p-value that both are as likely.

    Example:
        >>> import numpy as np
        >>> from ard.evaluation.steered import mcnemar
        >>> mcnemar(np.array([1.0, 1, 1, 1, 1, 0]), np.array([0.0, 0, 0, 0, 0, 0]))
        ((5, 0), 0.0625)
    """
    gained, lost = int(np.sum(own > other)), int(np.sum(own < other))
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return (gained, lost), p


def _ranked(source: str, target: str, other: str, drawn: Mapping[str, Any] | None, seed: int) -> Iterator[Compared]:
    """Compare with the mean of random draws; the p-value is that of the rank among them."""
    values = [draw["sensitivity"]["value"] for draw in drawn["draws"]] if drawn else []
    shares = np.array([value for value in values if value is not None])
    ours = drawn["ours"]["value"] if drawn else None
    if len(shares) and ours is not None and drawn is not None and drawn["p"] is not None:
        difference = Figure.estimate(ours - shares, np.mean, "share of clips", over="draws", seed=seed)
        yield Compared(source, target, other, difference, None, drawn["p"])


def _adjusted(found: Sequence[Compared]) -> list[float]:
    """Return Holm's p-values over the shifts of each other row."""
    adjusted = [math.nan] * len(found)
    for other in {one.other for one in found}:
        of_row = [index for index, one in enumerate(found) if one.other == other]
        for index, p in zip(of_row, holm([found[index].p for index in of_row]), strict=True):
            adjusted[index] = p
    return adjusted


def _verdict(difference: float, p: float) -> str:
    if p >= ALPHA or difference == 0:
        return EQUAL
    return ABOVE if difference > 0 else BELOW
