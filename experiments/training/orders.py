"""What is known without labels, and how well it orders settings and chooses features as the labels do."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.training.measure import SCORES, rank_correlation
from experiments.training.measured import Estimate, Measured, estimate

FIGURE_WORDS = {"above_chance": "share of live features above chance", "num_live": "minus the number of live features"}
AT_EQUAL_K = ", at equal K"


def label_free_figures(one: Measured) -> dict[str, dict[str, float]]:
    """Return what is known of a setting without labels, by figure and form; more is better."""
    found = {
        key: {
            "trained": one.mean(f"mean_{key}", "trained"),
            "beyond untrained": one.mean(f"mean_{key}", "gain"),
        }
        for key in SCORES
    }
    for figure, sign in (("above_chance", 1), ("num_live", -1)):
        values = {who: sign * one.mean(figure, who) for who in ("trained", "gain")}
        found[FIGURE_WORDS[figure]] = {"trained": values["trained"], "beyond untrained": values["gain"]}
    trained, control = (-one.quality("fvu", who) for who in ("trained", "untrained"))
    found["minus FVU"] = {"trained": trained, "beyond untrained": trained - control}
    found["minus L0"] = {"trained": -one.quality("l0", "trained")}
    return found


def orders(of_data: Sequence[Measured], truth: str) -> dict[str, dict[str, float]]:
    """Return how well each label-free figure orders settings as F1 beyond untrained does: Spearman, by form.

    At equal K, the mean over the settings of that K is taken off both; a K of which there is one setting is left out.
    """
    gained = np.array([one.mean(truth, "gain") for one in of_data])
    of_k = np.array([one.setting.k for one in of_data])
    several = np.array([(of_k == k).sum() > 1 for k in of_k])

    def within(values: Float[np.ndarray, " settings"]) -> Float[np.ndarray, " some"]:
        return np.array([x - values[of_k == k].mean() for x, k in zip(values, of_k, strict=True)])[several]

    figures = [label_free_figures(one) for one in of_data]
    found: dict[str, dict[str, float]] = {}
    for figure, forms in figures[0].items():
        found[figure] = {}
        for form in forms:
            values = np.array([of_setting[figure][form] for of_setting in figures])
            found[figure][form] = rank_correlation(values, gained)
            found[figure][f"{form}{AT_EQUAL_K}"] = rank_correlation(within(values), within(gained))
    return found


def best_order(found: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    """Return the score and the form that order settings best."""
    return max(
        ((score, form) for score, forms in found.items() for form in forms if not form.endswith(AT_EQUAL_K)),
        key=lambda pair: np.nan_to_num(found[pair[0]][pair[1]], nan=-1.0),
    )


def order_table(by_data: Sequence[Mapping[str, Mapping[str, float]]], names: Sequence[str]) -> list[str]:
    """Return Spearman's correlations of settings, a score a row."""
    forms = [f"{form}{equal}" for form in ("trained", "beyond untrained") for equal in ("", AT_EQUAL_K)]
    head = [f"{name}: {form}" for form in forms for name in names]
    lines = [f"| score | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for score_words in by_data[0]:
        values = [of_data[score_words].get(form) for form in forms for of_data in by_data]
        cells = ["" if value is None or np.isnan(value) else f"{value:+.2f}" for value in values]
        lines.append(f"| {score_words} | {' | '.join(cells)} |")
    return lines


class Selecting(NamedTuple):
    """How well a score chooses features of trained SAEs, over settings."""

    rho_f1: float  # Spearman with the F1 of a feature's name on the other half, mean over settings and splits
    rho_auroc: float  # likewise with the AUROC
    f1: float  # of the top C by it
    beyond_m: Estimate  # F1 minus that of the top C by m
    better: int  # settings in which it is higher
    num_settings: int


def selecting(of_data: Sequence[Measured], who: str, num_selected: int) -> dict[str, Selecting]:
    """Return how well each score chooses the top C, in settings where there is a choice: more than C live features."""
    choice = [one for one in of_data if one.mean("num_live", "trained") > 1.25 * num_selected]

    def read(one: Measured, kind: str, key: str) -> np.ndarray:
        dictionaries = [d for cell in one.cells for d in ([cell[who]] if who == "trained" else cell[who])]
        return np.array([[np.nan if (x := s[kind].get(key)) is None else x for s in d["splits"]] for d in dictionaries])

    found = {}
    for key in (*SCORES, "random"):
        f1 = np.array([read(one, "f1_by", key).mean(axis=0) for one in choice])
        by_m = np.array([read(one, "f1_by", "m").mean(axis=0) for one in choice])
        rho_f1, rho_auroc = (
            float(np.nanmean([np.nanmean(read(one, kind, key)) for one in choice])) if key in SCORES else 0.0
            for kind in ("rho_f1", "rho_auroc")
        )
        better = int(((f1 - by_m).mean(axis=1) > 0).sum())
        found[key] = Selecting(
            rho_f1, rho_auroc, float(f1.mean()), estimate((f1 - by_m).mean(axis=0)), better, len(choice)
        )
    return found


def selecting_table(by_data: Sequence[Mapping[str, Selecting]], names: Sequence[str]) -> list[str]:
    """Return a row a score: what it tells of features, and F1 of the top C by it."""
    columns = ("Spearman with F1", "with AUROC", "F1 of its top C", "minus m's", "higher in")
    head = [f"{name}: {column}" for name in names for column in columns]
    lines = [f"| score | {' | '.join(head)} |", "| --- |" + " ---: | ---: | ---: | --- | ---: |" * len(names)]
    for key in by_data[0]:
        cells = []
        for of_data in by_data:
            one = of_data[key]
            rho = [f"{x:+.2f}" if key in SCORES else "" for x in (one.rho_f1, one.rho_auroc)]
            difference = str(one.beyond_m) if key != "m" else ""
            better = f"{one.better} of {one.num_settings}" if key != "m" else ""
            cells += [*rho, f"{one.f1:.3f}", difference, better]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return lines
