import time

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from ard.evaluation import BERTScore
from ard.types import UserError
from tests.conftest import save_roberta

NAMES, LABELS = ["a dog barking", "rain", "a man speaking " * 20], ["dog", "rain", "happy or sad"]


def by_hand(folder, name, label):
    """F1 of greedy matching of contextual embeddings; start and end count for nothing but may be matched."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embed(text):
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=38)
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state[0]
        inner = ~torch.isin(tokens["input_ids"][0], torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
        return torch.nn.functional.normalize(hidden, dim=-1), inner

    (said, counted), (reference, wanted) = embed(name), embed(label)
    cosine = said @ reference.T
    precision, recall = cosine.max(dim=1).values[counted].mean(), cosine.max(dim=0).values[wanted].mean()
    return float(2 * precision * recall / (precision + recall))


def test_scores_are_those_of_the_definition(tiny_roberta):
    score = BERTScore(tiny_roberta)
    assert not score.rescaled
    expected = [by_hand(tiny_roberta, name, label) for name, label in zip(NAMES, LABELS, strict=True)]
    np.testing.assert_allclose(score(NAMES, LABELS), expected, atol=1e-5)
    assert score(NAMES, NAMES) == pytest.approx(1, abs=1e-5)
    assert len(score([], [])) == 0


@pytest.mark.slow
def test_a_model_that_the_package_knows_is_rescaled_with_its_baseline(tmp_path):
    import bert_score

    folder = save_roberta(tmp_path / "roberta-large", num_layers=18)  # it takes the 17th of roberta-large's 24
    score = BERTScore(folder)
    assert score.rescaled
    AutoTokenizer.from_pretrained(folder, model_max_length=38).save_pretrained(folder)  # the package alone would fail
    table = pd.read_csv(f"{bert_score.__path__[0]}/rescale_baseline/en/roberta-large.tsv")
    raw = bert_score.score(NAMES[:2], LABELS[:2], model_type=folder, num_layers=17, device="cpu", nthreads=0)[2].numpy()
    baseline = table.loc[table.LAYER == 17, "F"].item()
    np.testing.assert_allclose(score(NAMES[:2], LABELS[:2]), (raw - baseline) / (1 - baseline), atol=1e-5)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"BERTScore model .* cannot be loaded"):
        BERTScore(str(tmp_path))


def test_without_a_network_one_line_says_what_to_fetch(no_network):
    no_network()
    started = time.monotonic()
    with pytest.raises(UserError, match=r"run `hf download roberta-large`, or give a local folder as `bertscore`"):
        BERTScore("roberta-large")
    assert time.monotonic() - started < 15  # bert_score itself takes seconds to import
