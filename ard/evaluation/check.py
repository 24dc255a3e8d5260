"""The tests that a name has to pass, on clips that naming never saw."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ard.activations import ProbeBatch, read_clips_metadata
from ard.activations.layer import read_layer
from ard.activations.stream import Probe
from ard.audio import StoredClips
from ard.embedding import EMBEDDED
from ard.evaluation.axes import AXES
from ard.evaluation.match import METHODS
from ard.evaluation.measured import Concepts, Measured, Verdict, combined, judge, measure
from ard.evaluation.odd_one_out import CHANCE, NUM_CLIPS, draw_trials, right_by_embeddings, right_by_listener
from ard.evaluation.scores import read_unseen
from ard.evaluation.truth import (
    DEVIATIONS,
    NUM_NEAREST,
    Clips,
    Truth,
    nearest,
    shared_words,
    truth_by_clap,
    truth_by_labels,
)
from ard.monosemanticity import Selection, read_selections
from ard.naming import Chat, read_names
from ard.probing import Evaluator, read_scores, score
from ard.probing.evaluator import CLIPS_PER_BATCH
from ard.results import Figure, Result, Row
from ard.run import Cell

SCORERS = ("ard", "mean", "coverage")
MOST_OTHERS = 500
"""Other names that each name is compared with; of more, so many are drawn."""

HEARD_AT_ONCE = 16
"""Intruder tests whose sounds are in memory together."""


class CheckNames(Evaluator):
    """Write ``name_axes.json``, and ``axes.parquet`` with a row for every named concept: four tests of its name.

    On clips that naming never saw:

    - *responsiveness*: AUROC of the feature's score for the clips in which the name is true, and average precision;
    - *purity*: of the clips in which the feature fires at all, the share in which the name is true: the mean over four
      equal parts of them, from its strongest clips to its weakest;
    - *sensitivity*: of new clips that were made for the name, the share in which the feature fires. They are those of
      the split ``made``: mixtures of unseen clips (:class:`~ard.audio.MixedClips`), or scenes that the synthetic corpus
      renders. Without them there is no such axis;
    - *intruder*: AUROC of the feature's score for the name's clips among these and its hard negatives, which are clips
      of the five nearest other names.

    A name is true of a clip that has all labels which the name states; if no clip has them, or the name states none, if
    CLAP hears it there (:mod:`ard.evaluation.truth`).

    Every axis is compared with the same axis for other names: those of the other concepts and the labels, without those
    that say much the same. The share of them that do as well, over all features, is the p-value; over all concepts it
    becomes a q-value (Benjamini and Hochberg). A name *passes* if every axis that could be measured has a q-value of at
    most ``rate``, and fails otherwise; it does neither where responsiveness could not be measured. Its ``score`` is the
    harmonic mean of its axes, each from chance to 1 (:func:`~ard.evaluation.axes.name_scores`).

    Beside the axes stands the intruder test of the feature itself, whatever its name: of five clips it fires in four,
    and the odd one out is guessed by CLAP's embeddings of the sounds, or by a model that hears.

    Args:
        clap: the CLAP model; None leaves out what needs one.
        activity: a feature fires in a made clip if its score is positive and reaches this share of its score on the
            weakest clip in H^k.
        rate: highest q-value of an axis that passes.
        least_clips: an axis is measured on at least so many clips in which the name is true, and as many others.
        num_trials: intruder tests of a feature by CLAP.
        listener: a model that hears, at an endpoint, for the intruder test; its answers are kept.
        num_heard: features that the listener is asked about, once each: those of the highest score.
        seed: seed of all draws and of the bootstrap.
    """

    needs = ("representatives", "selections", "names", "concepts", "scores")
    makes = ("axes",)
    results = ("name_axes",)
    embeds = ("unseen",)
    reads_made = True

    def __init__(
        self,
        *,
        clap: str | None = EMBEDDED,
        activity: float = 0.0,
        rate: float = 0.05,
        least_clips: int = 3,
        num_trials: int = 20,
        listener: Chat | None = None,
        num_heard: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(clap=clap, seed=seed)
        self.activity, self.rate, self.least_clips = activity, rate, least_clips
        self.num_trials, self.listener, self.num_heard = num_trials, listener, num_heard

    def check(self, cell: Cell) -> None:
        """Ask the listener something, unless it was asked before."""
        if self.listener is not None:
            self.listener.check()

    def evaluate(self, cell: Cell) -> Result | None:
        """Measure the axes of every name, and what they say of it; None if naming saw all clips or none has labels."""
        cell.path("axes").unlink(missing_ok=True)
        selections, names = read_selections(cell), read_names(cell)
        scorers = {scorer: (selections[scorer][0], names[scorer][0]) for scorer in SCORERS if scorer in names}
        rows = read_unseen(cell, torch.cat([selection.top_ids for selection, _ in scorers.values()]))
        clips = self._clips(cell, rows)
        if not len(rows) or (not clips.vocabulary and clips.embedded is None):
            return None
        of_scorers = self._concepts(cell, scorers, rows)
        figures: list[Row] = []
        details: dict[str, Any] = {}
        for scorer, concepts in of_scorers.items():
            space = self._space(concepts, clips)
            by = {truth.by: self._measure(concepts, truth, space) for truth in space.truths}
            measured, kinds = combined(by)
            verdict = judge(
                measured, (concepts.scores > 0).any(axis=0), self._near_names(concepts, space, kinds), self.rate
            )
            figures += self._rows(cell, scorer, concepts, measured, verdict)
            if scorer != "ard":
                continue
            if len(by) > 1:
                figures += [self._row(cell, of_truth.own, f"by {of}") for of, of_truth in by.items()]
                figures += [self._ceiling(cell, concepts, space)]
            odd = self._odd_ones_out(cell, concepts, clips, space, verdict)
            table = _table(concepts, measured, kinds, verdict, odd)
            cell.save_rows("axes", table)
            details = self._details(cell, table, clips, len(names["ard"][0]), odd)
        return Result("name_axes", tuple(figures), self._choices(cell, clips), details)

    def _clips(self, cell: Cell, rows: Int[Tensor, " clips"]) -> Clips:
        described = read_clips_metadata(cell.splits[cell.unseen])
        made = [] if cell.made is None else read_clips_metadata(cell.made)
        clips = Clips([described[row] for row in rows.tolist()], made)
        if self.clap_name is None:
            return clips
        rendered = any(not clip.get("mixture") for clip in made)
        return clips._replace(
            embedded=self.embeddings(cell, cell.unseen)[rows].numpy(),
            embedded_made=self.embeddings(cell, "made").numpy() if rendered else None,
        )

    @torch.inference_mode()
    def _concepts(
        self,
        cell: Cell,
        scorers: Mapping[str, tuple[Selection, Sequence[str | None]]],
        rows: Int[Tensor, " clips"],
    ) -> dict[str, Concepts]:
        """Return the named concepts of every scorer: their scores, and where they fire."""
        unseen, stored = read_scores(cell, cell.unseen), cell.tensors("representatives")
        assert unseen is not None
        unseen = unseen.among(rows)
        of_scorers = {}
        for scorer, (selection, names) in scorers.items():
            named = [place for place, name in enumerate(names) if name is not None]
            features = selection.features[named]
            least = self.activity * stored[f"{scorer}/top_scores"][features, -1].numpy()
            scores = unseen.dense(scorer, features).numpy()
            fires = (scores > 0) & (scores >= least)
            of_scorers[scorer] = (
                Concepts(features.numpy(), [str(names[place]) for place in named], scores, fires, fires[:0]),
                least,
            )
        made: dict[str, list[Bool[np.ndarray, "clips concepts"]]] = {scorer: [] for scorer in of_scorers}
        if cell.made is not None:
            dictionary = self.dictionary(cell)
            for batch in Probe(read_layer(cell.made, cell.layer), CLIPS_PER_BATCH):
                x, clip_of_token, of_batch = (part.to(self.device) for part in batch[:3])
                scored = score(dictionary, ProbeBatch(x.float(), clip_of_token, of_batch, batch.metadata)).scores
                for scorer, (concepts, least) in of_scorers.items():
                    of_clips = getattr(scored, scorer)[:, torch.from_numpy(concepts.features)].cpu().numpy()
                    made[scorer].append((of_clips > 0) & (of_clips >= least))
        return {
            scorer: concepts._replace(fires_made=np.concatenate([concepts.fires_made, *made[scorer]]))
            for scorer, (concepts, _) in of_scorers.items()
        }

    def _space(self, concepts: Concepts, clips: Clips) -> "_Space":
        """Return the names of the concepts and the labels, and where they are true."""
        names = list(dict.fromkeys([*concepts.names, *(label.replace("_", " ") for label in clips.vocabulary)]))
        truths = []
        if clips.embedded is not None:
            texts = self.clap().text(names).numpy()
            alike = texts @ texts.T
            truths.append(truth_by_clap(texts, clips, alike))
        else:
            alike = shared_words(names)
        if clips.vocabulary:
            truths.insert(0, truth_by_labels(names, clips, alike))
        column = {name: number for number, name in enumerate(names)}
        others = np.random.default_rng(self.seed).permutation(len(names))[:MOST_OTHERS]
        return _Space(names, np.array([column[name] for name in concepts.names], dtype=np.int64), others, truths, alike)

    def _measure(self, concepts: Concepts, truth: Truth, space: "_Space") -> Measured:
        return measure(concepts, truth, space.columns, space.others, self.least_clips)

    def _near_names(self, concepts: Concepts, space: "_Space", kinds: Sequence[str]) -> list[str | None]:
        """Return the nearest other name of every concept, by what says where it is true."""
        first = {
            truth.by: [next(iter(others), None) for others in nearest(truth.true, space.alike)]
            for truth in space.truths
        }
        near = [first[kind][column] for kind, column in zip(kinds, space.columns.tolist(), strict=True)]
        return [None if other is None else space.names[other] for other in near]

    def _rows(self, cell: Cell, scorer: str, concepts: Concepts, measured: Measured, verdict: Verdict) -> list[Row]:
        """Return the rows of a scorer: its names, and what other names give."""
        method = "" if scorer == "ard" else METHODS[scorer]
        own = self._row(cell, measured.own, method, passes=verdict.passes, score=verdict.score)
        if scorer != "ard":
            return [own]
        precision = measured.average_precision[~np.isnan(measured.average_precision)]
        figures = dict(own.figures)
        figures["average_precision"] = self._mean(precision, "average precision")
        others = self._row(cell, measured.chance, "names shuffled").as_control()
        return [cell.row(figures), others]

    def _row(
        self,
        cell: Cell,
        values: Float[np.ndarray, "axes concepts"],
        control: str = "",
        *,
        passes: Sequence[bool | None] = (),
        score: Float[np.ndarray, " concepts"] | None = None,
    ) -> Row:
        figures = {
            axis: self._mean(of_axis[~np.isnan(of_axis)], axis) for axis, of_axis in zip(AXES, values, strict=True)
        }
        if score is not None:
            told = np.array([passed is not None for passed in passes], dtype=bool)
            passed = np.array(passes)[told].astype(float)
            figures["score"] = self._mean(score[told], "score of a name that can be tested")
            figures["share_pass"] = self._mean(passed, "share of the names that can be tested")
        return cell.row(figures, control=control)

    def _mean(self, values: Float[np.ndarray, " concepts"], unit: str) -> Figure:
        return Figure.estimate(values, np.mean, unit, over="concepts", seed=self.seed)

    def _ceiling(self, cell: Cell, concepts: Concepts, space: "_Space") -> Row:
        """Return the axes by CLAP of ideal features, which fire where the labels of the names are."""
        labels, clap = (next(truth for truth in space.truths if truth.by == by) for by in ("labels", "CLAP"))
        true, made = labels.true[:, space.columns], labels.made[:, space.columns]
        stated = true.any(axis=0)
        ideal = Concepts(
            concepts.features[stated],
            [name for name, is_stated in zip(concepts.names, stated, strict=True) if is_stated],
            true[:, stated].astype(float),
            true[:, stated],
            made[:, stated],
        )
        measured = measure(ideal, clap, space.columns[stated], space.others, self.least_clips)
        return self._row(cell, measured.own, "by CLAP, ceiling").as_control()

    def _odd_ones_out(
        self, cell: Cell, concepts: Concepts, clips: Clips, space: "_Space", verdict: Verdict
    ) -> dict[str, Any]:
        """Return the intruder tests: for each feature the share that CLAP gets right, and the listener's answer."""
        rng, truth = np.random.default_rng(self.seed), space.truths[0]
        drawn = [
            draw_trials(fires, of_concept, near, self.num_trials, rng)
            for fires, of_concept, near in zip(
                concepts.fires.T, concepts.scores.T, truth.near[:, space.columns].T, strict=True
            )
        ]
        shares: list[float | None] = [None] * len(drawn)
        if clips.embedded is not None:
            shares = [t and float(right_by_embeddings(t, clips.embedded).mean()) for t in drawn]
        heard: dict[int, bool | None] = {}
        if self.listener is not None:
            best = np.argsort(-np.nan_to_num(verdict.score), kind="stable")
            asked = [concept for concept in best.tolist() if drawn[concept] is not None][: self.num_heard]
            stored = StoredClips(cell.run.audio(cell.unseen))
            for start in range(0, len(asked), HEARD_AT_ONCE):
                batch = asked[start : start + HEARD_AT_ONCE]
                trials = {concept: trial for concept in batch if (trial := drawn[concept]) is not None}
                fives = {
                    concept: list(stored(str(clips.unseen[row]["id"]) for row in trial.clips[0]))
                    for concept, trial in trials.items()
                }
                whole = [concept for concept, five in fives.items() if len(five) == NUM_CLIPS]  # all can be decoded
                intruders = [int(trials[concept].intruder[0]) for concept in whole]
                right = right_by_listener(self.listener, [fives[concept] for concept in whole], intruders)
                heard |= dict(zip(whole, right, strict=True))
        return {"shares": shares, "heard": heard}

    def _details(
        self, cell: Cell, table: Sequence[Mapping[str, Any]], clips: Clips, num_concepts: int, odd: Mapping[str, Any]
    ) -> dict[str, Any]:
        told = [share for share in odd["shares"] if share is not None]
        heard = [right for right in odd["heard"].values() if right is not None]
        kinds = [row["truth"] for row in table]
        return {
            "num_clips": len(clips.unseen),
            "num_made": len(clips.made),
            "num_concepts": num_concepts,
            "num_names": len(table),
            "num_pass": sum(row["passes"] is True for row in table),
            "num_fail": sum(row["passes"] is False for row in table),
            "num_not_told": sum(row["passes"] is None for row in table),
            "true_by": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
            "odd_one_out": {"right": float(np.mean(told)) if told else None, "features": len(told), "chance": CHANCE},
            "odd_one_out_heard": {
                "right": float(np.mean(heard)) if heard else None,
                "asked": len(odd["heard"]),
                "unreadable": len(odd["heard"]) - len(heard),
                "model": self.listener.model if self.listener is not None else None,
            },
        }

    def _choices(self, cell: Cell, clips: Clips) -> dict[str, Any]:
        by_clap = f"CLAP {self.clap_name!r}: cosine {DEVIATIONS:g} standard deviations above its mean over the clips"
        by = ["all labels that the name states"] if clips.vocabulary else []
        levels = sorted({clip["mixture"]["level_db"] for clip in clips.made if clip.get("mixture")}, reverse=True)
        return {
            "clips": "the evaluation set"
            if cell.evaluation
            else "clips of the probing set that are in no concept's H^k",
            "true": "; else ".join([*by, *([by_clap] if clips.embedded is not None else [])]),
            "fires": f"a positive score of at least {self.activity:g} of that on the weakest clip in H^k",
            "made": None if not clips.made else f"mixtures at {levels} dB" if levels else "rendered scenes",
            "hard_negatives": f"clips of the {NUM_NEAREST} nearest other names by "
            + ("CLAP's texts" if clips.embedded is not None else "shared words"),
            "passes": f"every measured axis has a q-value of at most {self.rate:g}",
            "score": "harmonic mean of the axes, each from chance (0) to 1",
        }


class _Space(NamedTuple):
    """Names: those of the concepts, and the labels; where they are true, and how alike they are."""

    names: list[str]
    columns: Int[np.ndarray, " concepts"]  # of every concept's own name
    others: Int[np.ndarray, " others"]  # of the names that each is compared with
    truths: list[Truth]  # by labels, if there are any, then by CLAP, if there is one
    alike: Float[np.ndarray, "names names"]


def _table(
    concepts: Concepts, measured: Measured, kinds: Sequence[str], verdict: Verdict, odd: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of ``axes.parquet``."""
    rows = []
    for place, (feature, name) in enumerate(zip(concepts.features.tolist(), concepts.names, strict=True)):
        row: dict[str, Any] = {"feature": feature, "name": name, "truth": kinds[place]}
        for number, axis in enumerate(AXES):
            row |= {
                axis: float(measured.own[number, place]),
                f"{axis}_chance": float(measured.chance[number, place]),
                f"{axis}_q": float(verdict.q[number, place]),
            }
        rows.append(
            row
            | {
                "average_precision": float(measured.average_precision[place]),
                "purity_at": measured.purity_at[:, place].tolist(),
                "num_true": int(measured.num_true[place]),
                "odd_one_out": odd["shares"][place],
                "odd_one_out_heard": odd["heard"].get(place),
                "score": float(verdict.score[place]),
                "passes": verdict.passes[place],
                "fails": verdict.fails[place],
            }
        )
    return rows
