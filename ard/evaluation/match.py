"""Names against the labels of clips that nothing was trained on (Table 1)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain, combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ard.embedding import EMBEDDED
from ard.evaluation.activity import GRID, Graded, count_matches, curve, grade, predict, score_quantiles
from ard.evaluation.functional import Difference, LabelText, label_text, over_draws, paired_difference
from ard.evaluation.matching import DEFAULT, AveragePrecisionKind, MatchReading
from ard.evaluation.metric import Clips, ConceptAveragePrecision, ConceptMatching
from ard.evaluation.scores import Active, ActiveBy, Labelled, active_concepts, predicted, read_labelled
from ard.monosemanticity import Selection, read_selections
from ard.naming import read_phrases
from ard.naming.captions import read_captions
from ard.naming.consensus import parts
from ard.probing import Evaluator
from ard.results import Figure, Result, Row
from ard.run import Cell
from ard.types import UserError

METHODS = {"mean": "Mean Act.", "coverage": "Coverage", "random": "Rand. Rep."}  # by scorer, as the paper names them
METRICS = {"precision": "precision", "recall": "recall", "f1": "F1", "map": "mAP", "map_at_matches": "mAP at matches"}
AT_MATCHES: AveragePrecisionKind = "references"
LEAST_LABELLED = 0.5  # share of the probing clips that have labels, for the activity to be chosen by these
Similarity = Literal["clap", "exact"]
EmbedText = Callable[[Sequence[str]], Tensor]


class Target(NamedTuple):
    """Labelled clips, with their labels as references: row numbers of ``space``, the embeddings of all labels."""

    clips: Labelled
    references: Clips
    space: Float[Tensor, "labels d"]


class Names(NamedTuple):
    """The names of one or several draws of the same concepts, phrase by phrase: row numbers in ``space``, or -1."""

    words: list[Int[np.ndarray, "concepts most"]]
    space: Float[Tensor, "names d"]


class Activity(NamedTuple):
    """Where the concepts of a scorer are active: by a rule that takes a number, or at every quantile of the grid."""

    fixed: Active | None
    unseen: Graded | None = None
    probing: Graded | None = None


class MatchLabels(Evaluator):
    """Write ``matching.json``: precision, recall, F1 and mAP of every method (Sec. 4, Table 1).

    A clip's predictions are the distinct names of the selected concepts that are active in it; a name that joins
    several phrases is several predictions. Its references are its labels. They are compared by the cosine of their CLAP
    text embeddings, or as words (``similarity``), and matched as the ``reading`` says. Controls show what an SAE's
    figures are worth: its names shuffled among its concepts; and as ceilings the clips' own labels as predictions, and
    the phrases of the clips' own captions (``Captions as names``): what would be reached if every clip were named by
    its own caption. That row is over the clips that were captioned (``n``).

    By the rule ``chosen``, a concept is active in a clip if its score is positive and above the q-quantile of its own
    scores on the labelled probing clips. Every row has the q of :data:`~ard.evaluation.activity.GRID` with which its
    names reach the highest F1 on these clips. Where less than half of the probing clips have labels, q is the one with
    which a clip has nearest to ``names_per_clip`` distinct predictions on average, and scores and predictions are those
    of the evaluation clips, whose labels are not used.

    Figures are shares, with an interval over clips, or over groups of clips where their metadata have a ``group``; that
    of a row with several draws is over draws too. Details: by row, ``quantiles`` (q) and ``curves`` (a list of q,
    precision, recall and F1 on the evaluation clips, for every q of the grid); and ``differences``, where every row
    minus each later one has ``value``, ``low``, ``high`` and ``p`` of each metric, clips paired.

    The default result also writes ``matching_resamples.safetensors``, under each row's method [draws, 1 + resamples,
    metrics], metrics in the order of ``METRICS``, for :func:`~ard.evaluation.paired_difference` with rows of other
    cells; and ``active.safetensors``, the labelled evaluation clips (``clips``, by their place among these) and the
    cell's own selected concepts (``concepts``) that are active in them.

    Args:
        clap: the CLAP model; None only where words are compared.
        similarity: ``clap``, or ``exact``: a name is a label if it is the same text, whatever its case.
        reading: how Sec. 4 is read where it leaves a choice.
        activity: the number that another rule than ``chosen`` takes; 0, as a share or a quantile, takes every clip with
            a positive score.
        active_by: when a concept is active in a clip, see :data:`~ard.evaluation.scores.ActiveBy`.
        names_per_clip: mean number of predictions that ``chosen`` comes near to where labels cannot choose.
        labels: how a label is spelled for CLAP, see :func:`~ard.evaluation.functional.label_text`.
        num_shuffles: how often the names are shuffled.
        result: name of the result, so that one cell can hold several readings; the presets have the paper's own rule as
            ``matching_paper``.
        seed: seed of the shuffles and the bootstrap.

    Raises:
        UserError: if ``activity`` is out of range for ``active_by``.
    """

    needs = ("representatives", "selections", "names", "scores")
    makes = ("active", "resamples")
    results = ("matching", "matching_paper")
    compares_texts = True

    def __init__(
        self,
        *,
        clap: str | None = EMBEDDED,
        similarity: Similarity = "clap",
        reading: MatchReading = DEFAULT,
        activity: float = 0.0,
        active_by: ActiveBy = "chosen",
        names_per_clip: float = 3.0,
        labels: LabelText = "space",
        num_shuffles: int = 10,
        result: str = "matching",
        seed: int = 0,
    ) -> None:
        if active_by == "chosen" and activity:
            raise UserError(f"activity {activity} has no use with 'chosen', which chooses it: give another active_by")
        if activity < 0 or (activity > 1 and active_by != "top"):
            raise UserError(
                f"activity {activity} is out of range for {active_by!r}: give a number from 0"
                + " to 1" * (active_by != "top")
            )
        super().__init__(clap=clap, seed=seed)
        self.reading = reading
        self.activity, self.active_by, self.names_per_clip = activity, active_by, names_per_clip
        self.labels, self.num_shuffles, self.result = labels, num_shuffles, result
        self.similarity: Similarity = similarity

    @classmethod
    def lacks(cls, settings: Mapping[str, Any]) -> str | None:
        """Return what it lacks: nothing where words are compared."""
        return None if settings.get("similarity") == "exact" else super().lacks(settings)

    def evaluate(self, cell: Cell) -> Result | None:
        """Match the names of every method, one row each; None without labelled clips."""
        labelled = read_labelled(cell, "eval")
        if labelled is None:
            self._keep_active(cell, None)
            self._keep_resamples(cell, {})
            return None
        probing = read_labelled(cell, "probe") if self.active_by == "chosen" else None
        if self.similarity == "clap":
            return self.match(cell, labelled, self.clap().text, probing)
        labels = {label for split in (labelled, probing) if split for label in split.vocabulary}
        return self.match(cell, labelled, SameWords(label_text(label, self.labels) for label in labels), probing)

    def match(self, cell: Cell, labelled: Labelled, embed: EmbedText, probing: Labelled | None = None) -> Result:
        """Match the names of a cell's concepts to the labels of clips.

        Args:
            cell: the cell whose concepts are matched.
            labelled: scores and labels of the clips.
            embed: embeds texts in the space where they are compared.
            probing: scores and labels of the probing clips, on which the activity is chosen.
        """
        unseen = self._target(labelled, embed)
        target = self._target(probing, embed) if probing and probing.share >= LEAST_LABELLED else None
        stored, selections, names = cell.tensors("representatives"), read_selections(cell), read_phrases(cell)
        vocabulary = sorted({phrase for draws in names.values() for draw in draws for name in draw for phrase in name})
        space, word = embed(vocabulary), {name: i for i, name in enumerate(vocabulary)}
        parts_of_table = [
            (replace(cell.row({}), method=METHODS.get(scorer, cell.method)), scorer, names[scorer], draws)
            for scorer, draws in selections.items()
        ]
        if "random" in selections:
            rng, own = np.random.default_rng(self.seed), names["ard"][0]
            shuffled = [[own[place] for place in rng.permutation(len(own))] for _ in range(self.num_shuffles)]
            parts_of_table.append((cell.row({}, control="names shuffled"), "ard", shuffled, []))
        activity: dict[str, Activity] = {}
        rows: list[Row] = []
        values: dict[str, Float[np.ndarray, "draws resamples metrics"]] = {}
        silent, quantiles, curves = {}, {}, {}
        for row, scorer, of_draws, draws in parts_of_table:
            kept = "ard" if scorer == "random" else scorer  # Rand. Rep. only gives AR&D's features other names
            if kept not in activity:
                activity[kept] = self._activity(unseen, target, stored, kept, draws[0].features)
            named = _read(of_draws, word, space)
            active, quantiles[row.method] = self._choose(activity[kept], target, named)
            word_lists = [self._predict(active, words, labelled) for words in named.words]
            values[row.method] = self._measure(word_lists, space, unseen)
            rows.append(self._row(row, values[row.method], labelled, draws))
            if not draws:
                continue
            silent[row.method] = sum(len(of_clip) == 0 for of_clip in word_lists[0])
            if graded := activity[kept].unseen:
                shape = curve(self._counts(graded, named, unseen), self.reading)
                curves[row.method] = [[q, *at] for q, at in zip(GRID, shape.tolist(), strict=True)]
            if row.method == cell.method:
                self._keep_active(cell, active)
        if "random" in selections:
            row = replace(cell.row({}), method="Labels as names")
            values[row.method] = self._measure([unseen.references], unseen.space, unseen)
            rows.append(self._row(row, values[row.method], labelled))
            rows += self._captions_as_names(cell, labelled, embed)
        self._keep_resamples(cell, values)
        details = {
            "num_clips": len(labelled.labels),
            "num_labels": len(labelled.vocabulary),
            "num_concepts_without_name": {scorer: draws[0].count([]) for scorer, draws in names.items()},
            "num_clips_without_prediction": silent,
            "quantiles": quantiles,
            "curves": curves,
            "differences": self._differences(values, labelled),
        }
        return Result(self.result, tuple(rows), self._choices(target), details)

    def _choices(self, probing: Target | None) -> dict[str, Any]:
        by_labels = "labelled probing clips: highest F1 of the names against the labels"
        by_number = f"evaluation clips, without labels: nearest to {self.names_per_clip:g} distinct names a clip"
        return {
            **asdict(self.reading),
            "activity": self.activity,
            "active_by": self.active_by,
            "chosen_on": (by_labels if probing else by_number) if self.active_by == "chosen" else None,
            "clap": self.clap_name if self.similarity == "clap" else None,
            "similarity": self.similarity,
            "label_text": self.labels,
        }

    def _target(self, labelled: Labelled, embed: EmbedText) -> Target:
        vocabulary = labelled.vocabulary
        index = {label: i for i, label in enumerate(vocabulary)}
        references = [torch.tensor([index[label] for label in dict.fromkeys(of)]) for of in labelled.labels]
        if self.reading.scope != "clip":
            references = [torch.arange(len(vocabulary))]
        return Target(labelled, references, embed([label_text(label, self.labels) for label in vocabulary]))

    def _activity(
        self,
        unseen: Target,
        probing: Target | None,
        stored: Mapping[str, Tensor],
        scorer: str,
        features: Int[Tensor, " concepts"],
    ) -> Activity:
        """Return where concepts are active, or would be."""
        scores = unseen.clips.scores
        if self.active_by != "chosen" or self.reading.scope != "clip":  # other scopes take all names, active or not
            by: ActiveBy = "share" if self.active_by == "chosen" else self.active_by
            weakest = stored[f"{scorer}/top_scores"][features, -1].float()
            return Activity(active_concepts(scores, scorer, features, weakest, self.activity, by))
        of = (probing or unseen).clips.scores
        thresholds = score_quantiles(of, scorer, features)
        graded = grade(scores, scorer, features, thresholds)
        return Activity(None, graded, grade(of, scorer, features, thresholds) if probing else graded)

    def _choose(self, activity: Activity, probing: Target | None, named: Names) -> tuple[Active, float | None]:
        """Return where concepts are active, by one rule for all draws of their names, and the quantile, if any."""
        if activity.fixed is not None:
            return activity.fixed, None
        assert activity.unseen is not None
        assert activity.probing is not None
        if probing is None:
            numbers = [predict(activity.probing, words, len(GRID)).counts.mean(axis=1) for words in named.words]
            index = int(np.abs(np.mean(numbers, axis=0) - self.names_per_clip).argmin())
        else:
            f1 = curve(self._counts(activity.probing, named, probing), self.reading)[:, 2]
            index = int(np.nan_to_num(f1).argmax())
        return activity.unseen.active(index), GRID[index]

    def _counts(self, graded: Graded, named: Names, target: Target) -> list[Float[np.ndarray, "quantiles clips 3"]]:
        similarity = (named.space @ target.space.T).double().numpy()
        word_lists = (predict(graded, words, len(GRID)) for words in named.words)
        return [count_matches(of_draw, target.references, similarity, self.reading) for of_draw in word_lists]

    def _predict(self, active: Active, words: Int[np.ndarray, "concepts most"], labelled: Labelled) -> Clips:
        """Return the names of the active concepts as predictions; a concept without a name predicts nothing."""
        if self.reading.scope == "clip":
            return predicted(active, words, len(labelled.labels))
        named_words = torch.from_numpy(words[words >= 0])
        return [named_words if self.reading.scope == "vocabulary" else named_words.unique()]

    def _measure(
        self, draws: Sequence[Clips], space: Float[Tensor, "names d"], target: Target
    ) -> Float[np.ndarray, "draws resamples metrics"]:
        """Return the figures of the predictions of every draw, and their resamples."""
        similarity, values = space @ target.space.T, []
        kinds = (self.reading.average_precision, AT_MATCHES)
        alone: dict[str, Any] = {"seed": self.seed, "sync_on_compute": False}  # other ranks would not answer
        if self.reading.scope == "clip":
            alone["groups"] = target.clips.groups
        for of_clips in draws:
            metrics = (
                ConceptMatching(similarity, self.reading, **alone),
                ConceptAveragePrecision(similarity, self.reading, kinds=kinds, **alone),
            )
            for metric in metrics:
                metric.update(of_clips, target.references)
            values.append(np.concatenate([metric.compute().numpy() for metric in metrics], axis=1))
        return np.stack(values)

    def _row(
        self,
        row: Row,
        values: Float[np.ndarray, "draws resamples metrics"],
        labelled: Labelled,
        draws: Sequence[Selection] = (),
    ) -> Row:
        """Return the row with its figures, as a control if it is of no selection; over several draws, their means."""
        n, over = self._units(labelled)
        several = len(values) > 1
        rng = np.random.default_rng(self.seed)
        mean = np.stack([over_draws(of_metric, rng) for of_metric in np.moveaxis(values, 2, 0)], axis=1)
        figures = {"ms": self._highest(draws)} if _have_m(draws) else {}
        for i, name in enumerate(METRICS):
            figures[name] = Figure.resampled(mean[:, i], n, "share", over=over + " and draws" * several)
        measured = replace(row, figures=figures, note=_spread(values, draws) if several else None)
        return measured if draws else measured.as_control()

    def _units(self, labelled: Labelled) -> tuple[int, str]:
        """Return how many things the interval is over, and what they are."""
        if self.reading.scope != "clip":
            return 1, "clips"
        if labelled.groups is None:
            return len(labelled.labels), "clips"
        return len(set(labelled.groups)), "groups of clips"

    def _highest(self, draws: Sequence[Selection]) -> Figure:
        """Return the highest m and its interval over concepts; over several draws, the mean and its interval."""
        unit = "pooled standard deviations"
        if len(draws) == 1:
            return Figure.estimate(draws[0].m.numpy(), np.max, unit, over="concepts", seed=self.seed)
        highest = np.array([float(draw.m.max()) for draw in draws])
        return Figure.estimate(highest, np.mean, unit, over="draws", seed=self.seed)

    def _captions_as_names(self, cell: Cell, labelled: Labelled, embed: EmbedText) -> list[Row]:
        """Return the row of the clips that were to be captioned, if any; one without a caption predicts nothing."""
        naming = cell.result("naming")
        asked = set(naming.details.get("evaluation_clips", ())) if naming else set()
        places = [place for place, clip_id in enumerate(labelled.clip_ids) if clip_id in asked]
        if naming is None or not places or self.reading.scope != "clip":
            return []
        captions = read_captions(cell.run.captions, naming.choices["captioner"])
        word_lists = [parts(captions.get(labelled.clip_ids[place], "")) for place in places]
        vocabulary = sorted({phrase for of_clip in word_lists for phrase in of_clip})
        word = {phrase: i for i, phrase in enumerate(vocabulary)}
        predictions = [torch.tensor([word[phrase] for phrase in of_clip], dtype=torch.int64) for of_clip in word_lists]
        groups = labelled.groups and [labelled.groups[place] for place in places]
        some = labelled._replace(labels=[labelled.labels[place] for place in places], groups=groups)
        values = self._measure([predictions], embed(vocabulary), self._target(some, embed))
        return [self._row(replace(cell.row({}), method="Captions as names"), values, some)]

    def _differences(
        self, values: Mapping[str, Float[np.ndarray, "draws resamples metrics"]], labelled: Labelled
    ) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Return what every row is above each later one, by metric."""
        n, over = self._units(labelled)
        differences: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        for own, other in combinations(values, 2):
            paired = (
                paired_difference(values[own][..., i], values[other][..., i], n=n, over=over, seed=self.seed)
                for i in range(len(METRICS))
            )
            differences.setdefault(own, {})[other] = dict(zip(METRICS, map(_written, paired), strict=True))
        return differences

    def _keep_active(self, cell: Cell, active: Active | None) -> None:
        """Keep where the cell's own concepts are active, if this is the default result."""
        if self.result == "matching":
            columns = active._asdict() if active else {}
            cell.save_tensors("active", {name: torch.from_numpy(column) for name, column in columns.items()})

    def _keep_resamples(self, cell: Cell, values: Mapping[str, Float[np.ndarray, "draws resamples metrics"]]) -> None:
        """Keep the resamples of all rows over the same clips, if this is the default result."""
        if self.result == "matching":
            cell.save_tensors("resamples", {method: torch.from_numpy(of_row) for method, of_row in values.items()})


def _have_m(draws: Sequence[Selection]) -> bool:
    """Return whether monosemanticity was measured, for which an embedding of the clips is needed."""
    return bool(draws) and not any(draw.m.isnan().all() for draw in draws)


def _spread(values: Float[np.ndarray, "draws resamples metrics"], draws: Sequence[Selection]) -> str:
    spread = values[:, 0].std(axis=0)
    deviations = ", ".join(f"{name} {value:.3f}" for name, value in zip(METRICS.values(), spread, strict=True))
    highest = f", MS {np.std([float(draw.m.max()) for draw in draws]):.3f}" if _have_m(draws) else ""
    return f"mean of {len(values)} draws; standard deviation over draws: {deviations}{highest}"


def _read(draws: Sequence[Sequence[Sequence[str]]], word: Mapping[str, int], space: Float[Tensor, "names d"]) -> Names:
    counts = [np.fromiter(map(len, names), np.int64, len(names)) for names in draws]
    most = max((int(count.max(initial=0)) for count in counts), default=0) or 1
    words = [np.full((len(names), most), -1) for names in draws]
    for names, count, of_draw in zip(draws, counts, words, strict=True):
        phrases = (word[phrase] for phrase in chain.from_iterable(names))
        of_draw[np.arange(most) < count[:, None]] = np.fromiter(phrases, np.int64, count.sum())
    return Names(words, space)


class SameWords:
    """Embed texts in a space where two have cosine 1 if they are the same, whatever their case, and 0 otherwise."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._place = {text: place for place, text in enumerate(dict.fromkeys(text.casefold() for text in texts))}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return a row for each text; a text that is not among those of the space is 0."""
        space = torch.zeros(len(texts), len(self._place))
        for row, text in enumerate(texts):
            if (place := self._place.get(text.casefold())) is not None:
                space[row, place] = 1
        return space


def _written(difference: Difference) -> dict[str, float]:
    figure = difference.figure
    return {"value": figure.value, "low": figure.low, "high": figure.high, "p": difference.p}
