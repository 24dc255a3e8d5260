"""The notes under a table: where it is from, how the paper was read, what is not beaten, what is missing."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ard.reports import paper
from ard.reports.table import Line, interval_text, value_text
from ard.results import OWN_METHOD, Result, Row
from ard.run import Run

TRUE_LABELS = (
    "In the rows “true labels as raters” nobody rated: the corpus's label that most of a concept's clips have takes "
    "the place of a person's, and there is no expert-rated score, since no rating is invented."
)


_SCOPES = {
    "clip": "the distinct names of the concepts active in a clip against its labels",
    "vocabulary": "all names at once against all labels, so that there is one matching and no interval",
    "distinct": "all distinct names at once against all labels, so that there is one matching and no interval",
}
_ACTIVE = {
    "chosen": "active where its score is above 0 and above a quantile chosen on the probing clips for every row",
    "share": "active where its score is above 0 and at least {} of that of the weakest clip in H^k",
    "quantile": "active where its score is above 0 and above the {} quantile of its scores",
    "top": "active where its score is above 0 and among the {:.0f} highest of the clip",
}
_AVERAGE_PRECISION = {
    "ranks": "mAP averages precision over all ranks of a clip's pairs, as the paper words it",
    "references": "mAP sums precision at the matches of a clip over its labels",
    "matches": "mAP averages precision at the matches of a clip",
    "pooled": "mAP ranks all clips' pairs together and sums precision at the matches over all labels",
    "classes": "mAP ranks the clips for every label by the closest of their names, and averages over labels",
}


def reading(results: Sequence[Result], scores: Sequence[Result]) -> list[str]:
    """Say how the paper was read where it leaves a choice: in the matching, and in the scores of `Rand. Rep.`."""
    readings = [result.choices for result in results if "scope" in result.choices]
    if not readings:
        return []
    chosen = readings[0]
    drawn = next((result.choices for result in scores if "random_from" in result.choices), None)
    random = ""
    if drawn:
        among = {"all": "all clips", "active": "the clips where the feature is active"}[drawn["random_from"]]
        lowest = "drawn too" if drawn["random_lowest"] else "kept"
        random = f" Rand. Rep. draws H^k from {among}, and L^k is {lowest}."
    cosine = f"cosine {'above' if chosen['strict'] else 'at least'} {chosen['gamma']}"
    if chosen.get("similarity") == "exact":
        cosine = "the same words"
    return [
        f"Read as: {_SCOPES[chosen['scope']]}; a concept is {_ACTIVE[chosen['active_by']].format(chosen['activity'])}; "
        f"{chosen['assignment']} assignment, {cosine}, applied {chosen['threshold']} it; "
        f"{chosen['average']}-averaged; {_AVERAGE_PRECISION[chosen['average_precision']]}.{random} "
        "experiments/table1 has the other readings."
    ]


def other_similarity(results: Iterable[Result]) -> list[str]:
    """Say what F1 would be if names and labels were compared the other way: as words, or by CLAP."""
    lines = []
    for result in results:
        how = "as words" if result.choices["similarity"] == "exact" else "by CLAP's text cosine"
        listed = "; ".join(
            f"{row.method} {value_text(row.figures['f1'])} {interval_text(row.figures['f1'])}" for row in result.rows
        )
        lines.append(f"F1 where names and labels are compared {how}: {listed}.")
    return lines


def map_at_matches(rows: Sequence[Row]) -> list[str]:
    """Say what mAP would be in the reading that is not in the table."""
    values = [(row.method, row.figures["map_at_matches"].value) for row in rows if "map_at_matches" in row.figures]
    listed = ", ".join(f"{method} {value:.2f}" for method, value in values)
    reading = (
        "mAP with precision summed at the matches and divided by the number of labels, as in object detection, follows "
        f"recall and rewards many predictions: {listed}."
    )
    return [reading] if values else []


def unbeaten(lines: Sequence[Line], heads: Sequence[str]) -> list[str]:
    """Say for each column which other rows' intervals those of AR&D do not lie above; nothing if there are none."""
    by_column = []
    for column, head in enumerate(heads):
        measured = [(line, figure) for line in lines if (figure := line.cells[column].ours) is not None]
        rows = [
            other.stub[0] + (f" (against e = {own.stub[1]})" if len(own.stub) > 1 else "")
            for own, ours in measured
            for other, theirs in measured
            if own.is_own and not other.is_own and other.stub[0] != paper.CEILING and not ours.low > theirs.high
        ]
        if rows:
            by_column.append(f"{head}: {', '.join(rows)}")
    return [f"Where the interval of AR&D does not lie above another row's: {'; '.join(by_column)}"] if by_column else []


def differences(results: Iterable[Result], gains: Iterable[Result]) -> list[str]:
    """Say how much better AR&D's names are than every other row's, in F1 and mAP, paired over the same clips."""
    minus: dict[str, Mapping[str, Mapping[str, float | None]]] = {}
    for result in gains:
        minus |= result.details.get("names_minus", {})
    for row, others in ((row, of) for result in results for row, of in result.details.get("differences", {}).items()):
        for other, difference in others.items():
            if row == OWN_METHOD:
                minus[other] = difference
            elif other == OWN_METHOD:
                minus[row] = {metric: _turned(of) for metric, of in difference.items()}
    return [
        f"AR&D's {paper.METRICS[metric]} minus another row's, the same clips resampled: "
        + "; ".join(f"{method} {_span(of[metric])}" for method, of in minus.items() if metric in of)
        + "."
        for metric in ("f1", "map")
        if any(metric in of for of in minus.values())
    ]


def _turned(difference: Mapping[str, float | None]) -> dict[str, float | None]:
    pairs = {"value": "value", "low": "high", "high": "low"}
    return {part: None if (other := difference[of]) is None else -other for part, of in pairs.items()}


def _span(difference: Mapping[str, float | None]) -> str:
    value, low, high = (difference[part] for part in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:+.2f}" + ("" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]")


def orders(results: Iterable[Result]) -> list[str]:
    """Say what the highest m has instead of an interval: its range over orders of the data set."""
    ranges = [
        f"{row.method}{'' if row.expansion is None else f', e = {row.expansion}'} "
        + " / ".join(f"{m:.2f}" for m in result.details["ms_over_orders"])
        for result in results
        if result.details.get("ms_over_orders")
        for row in result.rows[:1]
    ]
    if not ranges:
        return []
    return [
        "The highest m has no interval, since a bootstrap's would end at the value itself. It depends on which silent "
        "clips come first. Lowest, median and highest over random orders of the data set, at the run's own layer: "
        + "; ".join(ranges)
        + "."
    ]


def steering_differences(results: Iterable[Result], pooled: Iterable[Result] = ()) -> list[str]:
    """Say shift by shift above which rows AR&D is, below which, and in how many runs of other seeds that holds."""
    said = []
    for result in results:
        shifts = dict.fromkeys((test["source"], test["target"]) for test in result.details["tests"])
        for source, target in shifts:
            tests = [test for test in result.details["tests"] if (test["source"], test["target"]) == (source, target)]
            rows = [row for row in result.rows if (row.source, row.target) == (source, target)]
            spans = {
                test["other"]: f"{test['other']} {row.figures['difference'].value:+.2f} "
                f"{interval_text(row.figures['difference'])}{_p_text(test['p_holm'])}"
                for test, row in zip(tests, rows, strict=True)
            }
            parts = [
                f"{words} {'; '.join(others)}"
                for verdict, words in (
                    ("above", "above"),
                    ("below", "below"),
                    ("not told apart", "not told apart from"),
                )
                if (others := [spans[test["other"]] for test in tests if test["verdict"] == verdict])
            ]
            said.append(f"{source.capitalize()} → {target.capitalize()}: AR&D is {'. It is '.join(parts)}.")
        said.append(
            "These are AR&D's differences to other rows over the same clips (bootstrap; of random draws: over draws) "
            "and the p-values of McNemar's exact test (of random draws: of the rank), by Holm over the shifts."
        )
    for result in pooled:
        claims = result.details["claims"]
        counts = [
            f"{source.capitalize()} → {target.capitalize()}: "
            + "; ".join(
                f"{one['other']} {one.get('above', 0)}/{one.get('below', 0)}"
                for one in claims
                if (one["source"], one["target"]) == (source, target)
            )
            for source, target in dict.fromkeys((one["source"], one["target"]) for one in claims)
        ]
        seeds = ", ".join(map(str, result.choices["seeds"]))
        said.append(f"In how many of the runs with seeds {seeds} AR&D is above/below a row. {'. '.join(counts)}.")
    return said


def _p_text(p: float) -> str:
    return " (p < 0.001)" if p < 0.001 else f" (p = {p:.3f})"


def other_seeds(run: Run) -> list[str]:
    """Say how many concepts come back in runs of other seeds, if `ard seeds` measured it."""
    notes = []
    for result in run.results("seeds", [run.layer], [run.expansion]):
        back, chance = (result.rows[0].figures[name] for name in ("come_back", "come_back_shuffled"))
        notes.append(
            f"Of the top {back.n} concepts at layer {run.layer}, e = {run.expansion}, {value_text(back)} "
            f"{interval_text(back)} come back in all of {len(result.details['runs']) - 1} runs of other seeds, by a "
            f"decoder direction of cosine {result.choices['cosine']} or more; with coordinates shuffled "
            f"{value_text(chance)}."
        )
        if named := result.rows[0].figures.get("name_comes_back"):
            notes.append(
                f"Of their names {value_text(named)} {interval_text(named)} are also there in all of these runs."
            )
        notes += [verdict] if (verdict := result.details.get("verdict")) else []
    return notes


def undefined(lines: Iterable[Line]) -> list[str]:
    """Say what a dash means, if a figure that was asked for has no value."""
    asked = [cell.ours for line in lines for cell in line.cells if cell.ours is not None]
    undefined = sum(not math.isfinite(figure.value) for figure in asked)
    return [f"Without a value, because there was nothing to measure it on: {undefined} figures."] if undefined else []


def provenance(run: Run, papers_clips: str, rows: Sequence[Row]) -> list[str]:
    """Say where the run's figures and the paper's come from."""
    if not rows:
        return []
    ours = (
        f"This run: {run.model}; {run.data.rstrip('.')}; preset {run.preset}, layer {run.layer}, e = {run.expansion}."
    )
    theirs = (
        f"Paper: as printed in arXiv 2602.22253, Qwen2-Audio-7B-Instruct on real recordings ({papers_clips}), "
        f"layer {paper.LAYER}, e = {paper.EXPANSION} unless said otherwise."
    )
    if run.preset != "paper":
        theirs += (
            " Another model and other clips: the two are not comparable, least of all where the clips are simulated."
        )
    return [_intervals(rows), ours, theirs]


def _intervals(rows: Sequence[Row]) -> str:
    """Say what the intervals are over."""
    over: dict[str, list[str]] = {}
    for row in rows:
        for figure in row.figures.values():
            if figure.over and math.isfinite(figure.low) and row.method not in over.setdefault(figure.over, []):
                over[figure.over].append(row.method)
    every = max(over, key=lambda unit: len(over[unit]), default="")
    others = [f"of {', '.join(methods)} over {unit}" for unit, methods in over.items() if unit != every]
    return f"Beside each figure of this run stands its 95 % interval, over {every or 'its samples'}" + (
        f" (some {'; '.join(others)})." if others else "."
    )


def left_out(why: str, *evaluations: str) -> str:
    """Say why there is no table: none of these evaluations has a result."""
    return f"Left out: this run has no {' or '.join(f'{name}.json' for name in evaluations)} ({why})."


_DENOMINATORS = {
    "predicted": "that the unsteered model answers with the source class",
    "truth": "that truly belong to the source class",
    "dataset": "of the whole split",
}


def steering(results: Iterable[Result]) -> list[str]:
    """Say how Table 3 was measured: denominator, controls, judge and agreement, and what else steering changed."""
    measured = [
        result
        for result in results
        if "denominator" in result.choices and any(row.expansion is not None for row in result.rows)
    ]
    return [
        note
        for result in measured
        for note in (" ".join(_steering(result)), *_side_effects(result), *_forecast(result.details))
    ]


def _steering(result: Result) -> list[str]:
    chosen = result.choices
    parts = [
        f"Sensitivity: of the clips {_DENOMINATORS[chosen['denominator']]}, the share whose answer under the condition "
        "is the target. Features and value were chosen on other clips. `Rand. Feats.` are as many features that fire "
        f"as often and change x by as much; their interval is over {chosen['num_draws']} draws. "
        "`Reverse` swaps source and target.",
        _judge(chosen["judge"], result.details),
    ]
    kept = [
        f"{name} {entry['unchanged']['value']:.2f} (SAE alone {entry['unchanged_without_clamp']['value']:.2f})"
        for name, task in result.details["tasks"].items()
        for entry in task.get("selectivity", [])
        if entry["unchanged"]["value"] is not None
    ]
    if kept:
        parts.append(
            f"Selectivity, the share of answers to the other question that stay as they were: {', '.join(kept)}."
        )
    parts += _ranks(result, OWN_METHOD)
    if left_out := {task.get("num_left_out_of_selection", 0) for task in result.details["tasks"].values()} - {0}:
        parts.append(f"{max(left_out)} clips of groups (speakers) that are measured were left out of the choice.")
    return parts


def ranked_controls(results: Iterable[Result]) -> list[str]:
    """Say the same of dictionaries that were never trained, where they are ranked among random draws."""
    return [note for result in results for note in _ranks(result, result.rows[0].method)]


def _ranks(result: Result, method: str) -> list[str]:
    drawn = list(_draws(result, method))
    before = f"Sensitivity by draw, lowest, quartiles and highest, beside {method}'s on the same clips (p by rank): "
    return [f"{before}{'; '.join(drawn)}."] if drawn else []


def _draws(result: Result, method: str) -> Iterator[str]:
    """Say shift by shift how the random draws are distributed."""
    for name, task in result.details["tasks"].items():
        for kind in ("random_features", "random_directions"):
            drawn = task.get(kind) or {"draws": []}
            values = [draw["sensitivity"]["value"] for draw in drawn["draws"]]
            shares = [value for value in values if value is not None]
            if shares and drawn["p"] is not None:
                spread = " ".join(f"{share:.2f}" for share in np.quantile(shares, [0, 0.25, 0.5, 0.75, 1]))
                ours = f"{method} {drawn['ours']['value']:.2f}, p = {drawn['p']:.2f}"
                yield f"{name}, {len(shares)} {kind.replace('_', ' ')} {spread} ({ours})"


def diagnoses(results: Iterable[Result]) -> dict[str, str]:
    """Say for each task on which steering does not work what is wrong, and why."""
    tasks = [item for result in results for item in result.details.get("tasks", {}).items()]
    return {name: _diagnosis(task["diagnosis"]) for name, task in tasks if task.get("diagnosis")}


def _diagnosis(diagnosis: Mapping[str, Any]) -> str:
    causes = [f"{cause['cause']}: {cause['because']}" for cause in diagnosis["causes"]]
    why = "; ".join(causes) or "none of the causes that are looked for applies"
    return f"AR&D is not shown to work ({', '.join(diagnosis['wrong'])}). Why? {why[0].upper()}{why[1:]}."


def steering_diagnoses(results: Iterable[Result]) -> list[str]:
    """Say the same with the shift in front, as notes of a table."""
    return [f"{_arrow(name)}: {text}" for name, text in diagnoses(results).items()]


def _arrow(task: str) -> str:
    return " → ".join(name.capitalize() for name in task.split(" to ", 1))


def _side_effects(result: Result) -> Iterator[str]:
    """Say shift by shift what AxBench makes of each method's answers, and what is left beside them."""
    said = []
    for shift, task in result.details["tasks"].items():
        settings = {
            name.replace("steered", OWN_METHOD): of["at_setting"]
            for name, of in {"steered": task, **task.get("methods", {})}.items()
            if "at_setting" in of
        }
        if settings:
            said.append(f"{shift}: {'; '.join(f'{name} {_left(left)}' for name, left in settings.items())}")
    if said:
        yield (
            f"What steering leaves, at each method's setting. Scores: {result.choices['axbench']}, 0 to 2, as harmonic "
            "mean (concept, instruction, fluency); kept: answers to other questions of the same class as before; "
            f"named: of the other sounds that the unsteered captions name, the share still named. {'. '.join(said)}."
        )


def _left(at_setting: Mapping[str, Any]) -> str:
    """Say what is left at one setting; what has no value is left out."""
    scores = {name: at_setting["axbench"][name]["value"] for name in ("overall", "concept", "instruction", "fluency")}
    parts = []
    if None not in scores.values():
        overall, *others = (f"{value:.2f}" for value in scores.values())
        parts.append(f"{overall} ({', '.join(others)})")
    if unreadable := at_setting["axbench"]["num_unreadable"]:
        parts.append(f"{unreadable} ratings unreadable")
    kept = [figure["value"] for figure in at_setting["kept"] if figure["value"] is not None]
    parts += [f"kept {' and '.join(f'{value:.2f}' for value in kept)}"] if kept else []
    parts += [f"named {at_setting['named']['value']:.2f}"] if "named" in at_setting else []
    rate = at_setting.get("word_error_rate", {})
    if rate.get("value") is not None:
        parts.append(f"word error rate {rate['value']:.2f} against {rate['against']}")
    return ", ".join(parts) or "–"


def _forecast(details: Mapping[str, Any]) -> Iterator[str]:
    """Say how well what was expected fits what changed."""
    correlations = details.get("forecast", {}).get("rank_correlation", {})
    listed = [
        f"{kind} {of['spearman']:+.2f} ({of['n']} settings and doses)"
        for kind, of in correlations.items()
        if of["spearman"] is not None
    ]
    if listed:
        yield (
            "Forecast, before anything was steered, of how many other answers change: Spearman's rank correlation with "
            f"what then changed is {', '.join(listed)}."
        )


def _judge(judge: str, judged: Mapping[str, Any]) -> str:
    if judge.startswith("exact match"):
        return "Judge: exact match of the answer's class."
    kappa = judged["kappa_with_exact_match"]
    agree = "undefined, since all verdicts are the same" if kappa is None else f"{kappa:.2f}"
    return (
        f"Judge: {judge}; {judged['num_unreadable']} of {judged['num_verdicts']} verdicts could not be read and count "
        f"neither way; Cohen's kappa with exact match on the {judged['num_judged_by_both']} others: {agree}."
    )


def agreement(studies: Iterable[Result]) -> list[str]:
    """Say how far the people of a rating study agree, or why that is unknown."""
    return [_agreement(study.details) for study in studies if "agreement" in study.details]


def _agreement(details: Mapping[str, Any]) -> str:
    num_people, by_method = details["num_people_who_rated"], details["agreement"]
    if not num_people:
        return "No person has rated yet."
    if num_people == 1:
        return "Krippendorff's alpha is undefined for a single rater: agreement is not known."
    if not by_method["all"]["n"]:
        return "Krippendorff's alpha is undefined: no concept was rated by two people."
    alphas = [
        f"{method} "
        + ("undefined, all ratings are equal" if alpha["value"] is None else f"{alpha['value']:.2f}")
        + (f" [{alpha['low']:.2f}, {alpha['high']:.2f}]" if alpha["low"] is not None else "")
        + f" (n = {alpha['n']})"
        for method, alpha in by_method.items()
    ]
    over = f"{num_people} people, over concepts that two or more rated"
    return f"Krippendorff's alpha (ordinal) of {over}: {'; '.join(alphas)}."


def of_rows(rows: Iterable[Row]) -> list[str]:
    """Return the notes of rows, each once."""
    return list(dict.fromkeys(f"{row.method}: {row.note}" for row in rows if row.note))
