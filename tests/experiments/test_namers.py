"""Namers held to the truth: the rule by hand, a small world, and the page."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ard.audio.synthetic import LABELS
from ard.naming import Concepts
from ard.results import Result, Row
from experiments import namers
from experiments.namers import COLUMNS, KEPT, PAGE, World, all_names, is_right, measure, render

NUM_LABELS, NUM_CLIPS, P, D = 8, 160, 4, 64


@pytest.fixture(scope="module")
def world():
    """Clips of one sound each; 16 features, two of every label."""
    generator = torch.Generator().manual_seed(0)
    of_clip = torch.arange(NUM_CLIPS) % NUM_LABELS
    sounds = torch.eye(NUM_LABELS, D)
    common = torch.eye(D)[-1]
    noise = 0.3 * torch.randn(NUM_CLIPS, D, generator=generator) / D**0.5
    clips = normalize(0.5 * sounds[of_clip] + common + noise, dim=1)

    def embed(texts):
        words = [text.removeprefix("the sound of ") for text in texts]
        known = {label: sounds[row] for row, label in enumerate(LABELS[:NUM_LABELS])}
        return normalize(torch.stack([known.get(one, common + torch.eye(D)[20]) for one in words]), dim=1)

    labels = [(LABELS[label],) for label in of_clip.tolist()]
    features = torch.arange(2 * NUM_LABELS)
    top_ids = torch.stack([(of_clip == label).nonzero()[:P, 0] for label in (features % NUM_LABELS).tolist()])
    concepts = Concepts(top_ids, [[f"a {of_clip[0]}"] for of_clip in labels], clips, embed, labels)
    scores = torch.stack([(of_clip == label).float() for label in (features % NUM_LABELS).tolist()], dim=1)
    return World(concepts, top_ids, features[:NUM_LABELS], features, labels, scores)


def test_a_name_is_right_if_half_of_the_most_active_unseen_clips_have_all_its_labels():
    unseen = [("rain",), ("rain", "wind"), ("wind",), ("siren",)]
    scores = torch.tensor([[3.0, 0.0, 0.0], [2.0, 0.0, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    top_ids = torch.zeros(3, 2, dtype=torch.int64)
    world = World(Concepts(top_ids), top_ids, torch.arange(3), torch.arange(3), unseen, scores)

    def right(name):
        return is_right(world, torch.arange(3), [name] * 3).tolist()

    assert right("rain and wind") == pytest.approx([1, np.nan, 1], nan_ok=True)
    for wrong in ("siren", "some noise", "siren and rain", None):
        assert right(wrong) == pytest.approx([0, np.nan, 0], nan_ok=True)


def test_every_namer_is_measured_and_phrases_that_are_close_to_everything_mislead_cosine_alone(world, tmp_path):
    rows = {}
    for words, name in all_names(tmp_path).items():
        row, right = measure(world, name, partial(Row, words, 3, 8))
        rows[words] = row.figures
        assert COLUMNS.keys() < row.figures.keys()
        assert right.mean() == row.figures["right_live"].value
        assert row.figures["right"].value >= row.figures["right_by_chance"].value
    figures = {words.partition("(")[0] + words.partition("), ")[2]: of_row for words, of_row in rows.items()}
    for words in ("labels", "captions, their consensus", "true vocabulary contrast", "with AudioSet's contrast"):
        assert figures[words]["right_live"].value == 1
    assert figures["with AudioSet's cosine, untested"]["right_live"].value == 0
    assert figures["with AudioSet's contrast, untested"]["nameless_shuffled"].value == 0
    for words in ("labels", "true vocabulary contrast", "with AudioSet's contrast"):
        assert figures[words]["nameless_shuffled"].value > 0.8


def test_the_page_shows_what_was_measured_and_says_nothing_else_of_it():
    result = Result.load(KEPT)
    assert render(result) in PAGE.read_text(encoding="utf-8")
    nameless = {row.method: row.figures["nameless_shuffled"] for row in result.rows}
    assert nameless["labels"].value >= 1 - namers.RATE
    assert all(
        of.high >= 1 - namers.RATE for words, of in nameless.items() if words.endswith((", contrast", "same test"))
    )
    assert nameless["captions, their consensus"].high < 1 - namers.RATE
    own, other = result.details["contrast_minus_cosine"].values()
    assert own["low"] < 0 < own["high"]
    assert other["low"] > 0
    right = {row.method: row.figures["right_live"] for row in result.rows}
    (own_words,) = [words for words in right if words.startswith("true") and words.endswith(", contrast")]
    assert right[own_words].value > right[own_words.replace("contrast", "cosine, same test")].value
    for words in right:
        if words.endswith("“the sound of”"):
            plain = right[words.rpartition(", ")[0]]
            assert plain.low < right[words].value < plain.high
