"""Names against the labels of their concepts' own clips."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer

from ard.activations import ActivationDataModule, ProbeBatch
from ard.embedding import EMBEDDED, load_clap
from ard.evaluation.bertscore import BERTScore
from ard.evaluation.functional import label_text, shared_label, stated_labels
from ard.evaluation.scores import PROBING
from ard.evaluation.similarity import compare_texts
from ard.monosemanticity import read_selections
from ard.naming import read_names
from ard.results import Figure, Result, Row
from ard.sae import Encoding


class CompareNames(Callback):
    """Write ``name_similarity.json``: how close names come to the label that their concept's own clips share.

    And ``stated_labels.json``: which of the corpus's labels some name states in words, which none does, and which names
    state nothing that is true of most of their clips.

    The measures are Table 2's, CLAP cosine and BERTScore; labels of a corpus take the place of the paper's human
    raters. Concepts whose clips share no label are counted and left out. A second row has the names shuffled among the
    concepts: what a name scores that knows nothing of its concept.

    Args:
        out: folder of this dictionary's results.
        clap: the CLAP model.
        bertscore: the language model of BERTScore (the usual one is ``roberta-large``), a hub id or a local folder;
            without one, BERTScore is left out.
        seed: of the shuffle and the bootstrap.
    """

    def __init__(self, out: Path, *, clap: str = EMBEDDED, bertscore: str | None = None, seed: int = 0) -> None:
        self.out, self.clap, self.bertscore, self.seed = Path(out), clap, bertscore, seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty."""
        assert isinstance(pl_module, Encoding)
        pl_module.refuse_ranks()
        self._labels: dict[int, list[str]] = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ProbeBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the labels of the probing set."""
        if dataloader_idx == PROBING:
            known = (
                (row, clip.get("labels", [])) for row, clip in zip(batch.rows.tolist(), batch.metadata, strict=True)
            )
            self._labels |= {row: labels for row, labels in known if labels}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare and write; without labels there is nothing to write."""
        assert isinstance(pl_module, Encoding)
        if not trainer.is_global_zero or not self._labels:
            return
        started = time.monotonic()
        selection, names = read_selections(self.out)["ard"][0], read_names(self.out)["ard"][0]
        frequency = Counter(label for labels in self._labels.values() for label in labels)
        heard = [[self._labels.get(row, []) for row in top] for top in selection.top_ids.tolist()]
        shared = [shared_label(labels, frequency) for labels in heard]
        pairs = [(name, label) for name, label in zip(names, shared, strict=True) if name and label]
        said, labels = [name for name, _ in pairs], [label_text(label) for _, label in pairs]
        shuffled = [said[i] for i in np.random.default_rng(self.seed).permutation(len(said))]
        clap = load_clap(self.clap, device=str(pl_module.device))
        bertscore = BERTScore(self.bertscore, device=str(pl_module.device)) if self.bertscore else None
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ActivationDataModule)
        rows: list[Row] = []
        for method, of_method in ((pl_module.method, said), (f"{pl_module.method}, names shuffled", shuffled)):
            figures = compare_texts(of_method, labels, range(len(labels)), clap, bertscore, seed=self.seed)
            row = Row(method, data.layer, pl_module.expansion, figures)
            rows.append(row.as_control() if rows else row)
        choices = {
            "reference": "the label that more than half of a concept's clips have, of several the rarest",
            "clap": self.clap,
            "bertscore": self.bertscore,
            "rescaled": bertscore.rescaled if bertscore else None,
        }
        details = {
            "num_concepts": len(names),
            "num_without_name": sum(name is None for name in names),
            "num_without_shared_label": sum(label is None for label in shared),
        }
        seconds = time.monotonic() - started
        result = Result("name_similarity", tuple(rows), choices, self.seed, seconds, details)
        result.save(self.out / "name_similarity.json")
        pl_module.log("name_similarity/clap_cosine", rows[0].figures["clap_cosine"].value)
        self._state(pl_module, data, selection.features.tolist(), names, heard, sorted(frequency))

    def _state(
        self,
        module: Encoding,
        data: ActivationDataModule,
        features: list[int],
        names: list[str | None],
        heard: list[list[list[str]]],
        vocabulary: list[str],
    ) -> None:
        """Say which labels are stated by names."""
        started = time.monotonic()
        stated = stated_labels(names, heard)
        known = {label for labels in stated for label in labels}
        share = Figure.estimate(np.array([label in known for label in vocabulary]), np.mean, "labels", seed=self.seed)
        wrong = [
            {"feature": feature, "name": name}
            for feature, name, labels in zip(features, names, stated, strict=True)
            if name and not labels
        ]
        details = {
            "stated": {
                label: [name for name, labels in zip(names, stated, strict=True) if label in labels]
                for label in vocabulary
                if label in known
            },
            "missing": [label for label in vocabulary if label not in known],
            "wrong": wrong,
            "num_named": sum(name is not None for name in names),
        }
        choices = {"stated": "the name contains the words of the label, and most of the concept's clips have it"}
        row = Row(module.method, data.layer, module.expansion, {"share_stated": share})
        result = Result("stated_labels", (row,), choices, self.seed, time.monotonic() - started, details)
        result.save(self.out / "stated_labels.json")
        module.log("stated_labels/share", share.value)
