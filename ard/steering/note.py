"""What stands under Table 3."""

import math
from collections.abc import Mapping
from typing import Any

from ard.steering.experiment import Measured

_DENOMINATORS = {
    "predicted": "that the unsteered model answers with the source class",
    "truth": "that truly are of the source class",
    "dataset": "of the whole split",
}


def note(choices: Mapping[str, Any], measured: Mapping[str, Measured], judged: Mapping[str, Any]) -> str:
    """Say how the table came about: denominator, controls, judge and agreement, and what else steering changed."""
    said = [
        f"Sensitivity: the share of the clips {_DENOMINATORS[choices['denominator']]} whose answer under the "
        "condition is the target. Features and value were chosen on other clips. `Rand. Feats.` are as many, fire as "
        f"often and have the same multiple of their maxima; their interval is over {choices['num_draws']} draws. The "
        "reverse direction is from target to source, on clips heard as target.",
        _judge(choices["judge"], judged),
    ]
    kept = [
        f"{name} {entry['unchanged']['value']:.2f} (SAE alone {entry['unchanged_without_clamp']['value']:.2f})"
        for name, found in measured.items()
        for entry in found.details.get("selectivity", [])
        if not math.isnan(entry["unchanged"]["value"])
    ]
    if kept:
        said.append(
            f"Selectivity, the share of answers to the other question that stay as they were: {', '.join(kept)}."
        )
    return " ".join(said)


def _judge(judge: str, judged: Mapping[str, Any]) -> str:
    if judge.startswith("exact match"):
        return "Judge: exact match of the answer's class."
    kappa = judged["kappa_with_exact_match"]
    agree = "undefined, for one of the two says one thing throughout" if math.isnan(kappa) else f"{kappa:.2f}"
    return (
        f"Judge: {judge}; {judged['num_unreadable']} of {judged['num_verdicts']} verdicts could not be read and count "
        f"neither way; Cohen's kappa with exact match on the {judged['num_judged_by_both']} others: {agree}."
    )
