"""BERTScore between names and references, by the bert-score package (Table 2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from transformers import AutoConfig

from ard.audiollm import widen_on_cpu
from ard.hub import TOKENIZERS, ensure_models, offline_if_cached
from ard.types import UserError


class BERTScore:
    """F1 of BERTScore (Zhang et al., ICLR 2020), with the layer and the baseline that its package has for a model.

    Rescaled with the baseline, unrelated sentences score about 0. The paper's 0.23 +- 0.41 must be rescaled, since
    roberta-large hardly goes below 0.8 otherwise. A model unknown to the package is used at its last layer, without
    rescaling.

    Args:
        model: a hub id such as ``roberta-large``, or a local folder, which is looked up by its own name.
        device: device to run on.

    Attributes:
        rescaled: whether there is a baseline for the model.

    Raises:
        UserError: if the model cannot be loaded.
    """

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        import bert_score  # imports matplotlib and pandas, which nothing else here needs

        ensure_models([model], beside=TOKENIZERS, otherwise="give a local folder as `bertscore`, or none")
        name = Path(model).name if Path(model).is_dir() else model
        baseline = Path(bert_score.__file__).parent / "rescale_baseline" / "en" / f"{name}.tsv"
        self.rescaled = baseline.is_file()
        try:
            with offline_if_cached(model, beside=TOKENIZERS):
                num_layers = (
                    bert_score.utils.model2layers.get(name) or AutoConfig.from_pretrained(model).num_hidden_layers
                )
                self._scorer: Any = bert_score.BERTScorer(
                    model_type=model,
                    num_layers=num_layers,
                    lang="en",
                    rescale_with_baseline=self.rescaled,
                    baseline_path=str(baseline) if self.rescaled else None,
                    device=device,
                    nthreads=0,
                )
        except (OSError, ValueError, AttributeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"BERTScore model {model!r} cannot be loaded ({reason}): give a local folder or a hub id"
            ) from error
        widen_on_cpu(self._scorer._model, f"BERTScore model {model!r}")
        longest = self._scorer._model.config.max_position_embeddings - 2
        tokenizer = self._scorer._tokenizer
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)  # some have 1e30, which overflows

    def __call__(self, names: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, " pairs"]:
        """Return the score of every pair; higher is closer. No text may be empty."""
        if not names:
            return np.empty(0)
        return self._scorer.score(list(names), list(references))[2].numpy().astype(np.float64)
