"""Compare names with the labels of their concepts' own clips."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from ard.activations import read_clips_metadata
from ard.embedding import EMBEDDED
from ard.evaluation.bertscore import BERTScore
from ard.evaluation.functional import label_text, shared_label, stated_labels, unseen_support
from ard.evaluation.scores import read_labelled
from ard.evaluation.similarity import compare_texts
from ard.monosemanticity import read_selections
from ard.naming import read_names
from ard.naming.functional import labels_in
from ard.probing import Evaluator
from ard.results import Figure, Result
from ard.run import Cell


class _Concepts(NamedTuple):
    """The selected features, their names, and the labels of every clip of H^k."""

    features: list[int]
    names: list[str | None]
    labels: list[list[list[str]]]
    frequency: Counter[str]  # how often each label occurs in the probing set


def _concepts(cell: Cell) -> _Concepts | None:
    """Read the selected concepts of a cell; None where no clip has a label."""
    of_clips = [clip.get("labels") or [] for clip in read_clips_metadata(cell.probe)]
    frequency = Counter(label for labels in of_clips for label in labels)
    if not frequency:
        return None
    selection, names = read_selections(cell)["ard"][0], read_names(cell)["ard"][0]
    labels = [[of_clips[row] for row in top] for top in selection.top_ids.tolist()]
    return _Concepts(selection.features.tolist(), names, labels, frequency)


class CompareNames(Evaluator):
    """Write ``name_similarity.json``: how close names come to the label that their concept's own clips share.

    The measures are those of Table 2, CLAP cosine and BERTScore; a corpus's labels replace the paper's human raters.
    Concepts whose clips share no label are counted and left out. A second row shuffles the names among the concepts:
    it shows what unrelated names score.

    Args:
        clap: the CLAP model.
        bertscore: the language model of BERTScore (the usual one is ``roberta-large``), a hub id or a local folder;
            without one, BERTScore is left out.
        seed: seed of the shuffle and the bootstrap.
    """

    needs = ("selections", "names")
    results = ("name_similarity",)
    compares_texts = True

    def __init__(self, *, clap: str = EMBEDDED, bertscore: str | None = None, seed: int = 0) -> None:
        super().__init__(clap=clap, seed=seed)
        self.bertscore = bertscore

    def evaluate(self, cell: Cell) -> Result | None:
        """Compare names and shared labels; None where no clip has a label."""
        concepts = _concepts(cell)
        if concepts is None:
            return None
        shared = [shared_label(labels, concepts.frequency) for labels in concepts.labels]
        pairs = [(name, label) for name, label in zip(concepts.names, shared, strict=True) if name and label]
        names, labels = [name for name, _ in pairs], [label_text(label) for _, label in pairs]
        shuffled = [names[i] for i in np.random.default_rng(self.seed).permutation(len(names))]
        bertscore = BERTScore(self.bertscore, device=self.device) if self.bertscore else None
        rows = []
        for control, of_row in (("", names), ("names shuffled", shuffled)):
            figures = compare_texts(of_row, labels, range(len(labels)), self.clap(), bertscore, seed=self.seed)
            row = cell.row(figures, control=control)
            rows.append(row.as_control() if control else row)
        choices = {
            "reference": "the label that more than half of a concept's clips have, of several the rarest",
            "clap": self.clap_name,
            "bertscore": self.bertscore,
            "rescaled": bertscore.rescaled if bertscore else None,
        }
        details = {
            "num_concepts": len(concepts.names),
            "num_without_name": sum(name is None for name in concepts.names),
            "num_without_shared_label": sum(label is None for label in shared),
        }
        return Result("name_similarity", tuple(rows), choices, details)


class StateLabels(Evaluator):
    """Write ``stated_labels.json``: which of the corpus's labels some name states in words, and which no name does.

    It also lists the names that state no label of most of their clips, and holds every name to what it states on the
    labelled evaluation clips, which naming never saw: ``unseen_precision``, the share of the clips where the feature is
    active (as :class:`~ard.evaluation.MatchLabels` has it) that have all labels that the name states, 0 if there is no
    such clip; and ``unseen_recall``, the share of the clips with all these labels where it is active. Both are means
    over the concepts whose names state a label of the corpus; recall is over those whose labels some clip has.

    Args:
        seed: seed of the bootstrap.
    """

    needs = ("selections", "names", "scores", "active")
    results = ("stated_labels",)

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed)

    def evaluate(self, cell: Cell) -> Result | None:
        """List the stated and the missing labels; None where no clip has a label."""
        concepts = _concepts(cell)
        if concepts is None:
            return None
        stated = stated_labels(concepts.names, concepts.labels)
        vocabulary, by_some = sorted(concepts.frequency), {label for labels in stated for label in labels}
        share = Figure.estimate(
            np.array([label in by_some for label in vocabulary]),
            np.mean,
            "share of labels",
            over="labels",
            seed=self.seed,
        )
        details = {
            "stated": {
                label: [name for name, labels in zip(concepts.names, stated, strict=True) if label in labels]
                for label in vocabulary
                if label in by_some
            },
            "missing": [label for label in vocabulary if label not in by_some],
            "wrong": [
                {"feature": feature, "name": name}
                for feature, name, labels in zip(concepts.features, concepts.names, stated, strict=True)
                if name and not labels
            ],
            "num_named": sum(name is not None for name in concepts.names),
        }
        choices = {
            "stated": "the name contains the words of the label, and most of the concept's clips have it",
            "unseen": "the name contains the words of the label; it is right in clips that have all such labels",
        }
        figures, on_unseen = self._unseen(cell, concepts)
        row = cell.row({"share_stated": share, **figures})
        return Result("stated_labels", (row,), choices, {**details, **on_unseen})

    def _unseen(self, cell: Cell, concepts: _Concepts) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Hold names to what they state on the labelled evaluation clips; nothing if there are none."""
        labelled, active = read_labelled(cell, "eval"), cell.tensors("active")
        if labelled is None or not active:
            return {}, {}
        fires = np.zeros((len(labelled.labels), len(concepts.names)), dtype=bool)
        fires[active["clips"].numpy(), active["concepts"].numpy()] = True
        vocabulary = sorted({*concepts.frequency, *labelled.vocabulary})
        has_label = dict(zip(vocabulary, labelled.have(vocabulary).T, strict=True))
        labels_of_name = {name: labels_in(name, vocabulary) for name in set(concepts.names)}
        judged = [place for place, name in enumerate(concepts.names) if labels_of_name[name]]
        precision, recall = unseen_support(
            [labels_of_name[concepts.names[p]] for p in judged], fires[:, judged], has_label
        )
        num_fires = fires[:, judged].sum(axis=0)
        figures = {
            "unseen_precision": Figure.estimate(
                precision, np.mean, "share of the clips where it is active", over="concepts", seed=self.seed
            ),
            "unseen_recall": Figure.estimate(
                recall[~np.isnan(recall)],
                np.mean,
                "share of the clips with its labels",
                over="concepts",
                seed=self.seed,
            ),
        }
        details = {
            "num_judged_on_unseen": len(judged),
            "num_never_active_on_unseen": int((num_fires == 0).sum()),
            "num_never_right_on_unseen": int(((num_fires > 0) & (precision == 0)).sum()),
            "mostly_wrong_on_unseen": [
                {
                    "feature": concepts.features[place],
                    "name": concepts.names[place],
                    "num_clips": int(num_fires[i]),
                    "precision": float(precision[i]),
                }
                for i, place in enumerate(judged)
                if precision[i] < 0.5
            ],
        }
        return figures, details
