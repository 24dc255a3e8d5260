"""Score names by the answers to a study (Table 2)."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ard.embedding import load_clap
from ard.evaluation.bertscore import BERTScore
from ard.evaluation.similarity import compare_texts, mean_of_concepts
from ard.results import Figure, Result, Row
from ard.study.functional import agreement
from ard.study.store import Answer, Concept, Store
from ard.types import UserError


def score_study(
    store: Store, path: Path, *, clap: str, bertscore: str | None = None, seed: int = 0, device: str = "cpu"
) -> Result:
    """Write and return ``study.json``: a row for every method as people judged it, and one as each language model did.

    ``expert_score`` is the mean rating; ``clap_cosine`` and ``bertscore`` compare the name with the raters' labels.

    Args:
        store: the study.
        path: path of the result file.
        clap: the CLAP model.
        bertscore: the language model of BERTScore, a hub id or a local folder; without one it is left out.
        seed: seed of the bootstrap.
        device: device to run the models on.

    Raises:
        UserError: if nobody has answered yet.
    """
    started = time.monotonic()
    answers = [answer for answer in store.answers() if answer.label is not None]
    if not answers:
        raise UserError(f"nobody has labelled a concept of {str(store.path)!r} yet: rate with `ard app --run DIR`")
    embed, scorer = load_clap(clap, device=device), BERTScore(bertscore, device=device) if bertscore else None
    concepts = {concept.key: concept for concept in store.concepts}
    rows = []
    for model in (None, *sorted({answer.rater for answer in answers if answer.kind == "llm"})):
        for method in sorted({concept.method for concept in concepts.values()}):
            of_row = [
                answer
                for answer in answers
                if (answer.rater if answer.kind == "llm" else None) == model
                and concepts[answer.concept].method == method
            ]
            if not of_row:
                continue
            keys = [answer.concept for answer in of_row]
            rated = [answer for answer in of_row if answer.rating is not None]
            ratings = np.array([answer.rating for answer in rated], dtype=float)
            names, labels = [concepts[key].name for key in keys], [answer.label or "" for answer in of_row]
            figures = {
                "expert_score": mean_of_concepts(ratings, [answer.concept for answer in rated], "rating", seed=seed),
                **compare_texts(names, labels, keys, embed, scorer, seed=seed),
            }
            first = concepts[keys[0]]
            row_name = method if model is None else f"{method}, rated by LLM {model}"
            note = _note(of_row, rated, sum(c.method == method for c in concepts.values()))
            rows.append(Row(row_name, first.layer, first.expansion, figures, note=note))
    people = [answer for answer in store.answers() if answer.kind == "person"]
    choices = {
        "scale": "0 to 5",
        "mean": "over concepts, of each concept's mean over its raters",
        "interval": "bootstrap over concepts",
        "spread": "standard deviation (n - 1) over single answers",
        "agreement": "Krippendorff's alpha, ordinal, people only",
        "clap": clap,
        "bertscore": bertscore,
        "rescaled": scorer.rescaled if scorer else None,
    }
    details = {
        "agreement": _agreement(people, store.concepts, seed),
        "num_people": len({answer.rater for answer in people}),
        "num_people_who_rated": len({answer.rater for answer in people if answer.rating is not None}),
        "num_concepts": Counter(concept.method for concept in store.concepts),
        "num_unanswered": Counter(
            f"{answer.rater}: {answer.unanswered}" for answer in store.answers() if answer.unanswered
        ),
    }
    result = Result("study", tuple(rows), choices, details, seed, time.monotonic() - started)
    result.save(path)
    return result


def rating_matrix(answers: Iterable[Answer], concepts: Sequence[Concept]) -> Float[np.ndarray, "concepts raters"]:
    """Lay out ratings by concept and rater, NaN where there is none."""
    answers = list(answers)
    raters = sorted({answer.rater for answer in answers})
    row = {concept.key: place for place, concept in enumerate(concepts)}
    matrix = np.full((len(concepts), len(raters)), np.nan)
    for answer in answers:
        if answer.rating is not None and answer.concept in row:
            matrix[row[answer.concept], raters.index(answer.rater)] = answer.rating
    return matrix


def _agreement(people: Sequence[Answer], concepts: Sequence[Concept], seed: int) -> dict[str, Any]:
    """Return alpha and its interval over the concepts that two people rated, for all of them and by method."""
    agreements = {}
    for method in ("all", *sorted({concept.method for concept in concepts})):
        of_method = [concept for concept in concepts if method in ("all", concept.method)]
        matrix = rating_matrix(people, of_method)
        paired = matrix[np.isfinite(matrix).sum(axis=1) > 1]
        alpha = agreement(paired)
        figure = Figure(alpha, math.nan, math.nan, len(paired), "alpha")
        if math.isfinite(alpha):
            figure = Figure.estimate(paired, agreement, "alpha", over="concepts", seed=seed)
        agreements[method] = {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
    return agreements


def _note(answers: Sequence[Answer], rated: Sequence[Answer], num_concepts: int) -> str:
    raters = len({answer.rater for answer in answers})
    who = f"{raters} {'person' if raters == 1 else 'people'}" if answers[0].kind == "person" else "a language model"
    labelled = len({answer.concept for answer in answers})
    text = f"{len(answers)} labels and {len(rated)} ratings by {who}, of {labelled} of {num_concepts} concepts"
    if answers[0].kind == "llm":
        text += "; it judged captions, from which the names were made too, and heard nothing"
    return text
