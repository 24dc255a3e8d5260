"""Names from labels: by hand, and held to the truth of the synthetic corpus."""

import pytest
import torch
from scipy.stats import binom

from ard.naming import Concepts, LabelNamer
from ard.types import UserError


def name_of(labels, top, rate=0.05):
    (name,) = LabelNamer(rate=rate)(Concepts(torch.tensor([top]), labels=labels))
    return name


def corpus(num_clips, **clips_of_label):
    return [
        [label for label, clips in clips_of_label.items() if clip in clips] or ["other"] for clip in range(num_clips)
    ]


def test_a_label_of_all_clips_of_a_concept_is_no_evidence_if_most_clips_have_it():
    labels = corpus(40, speech=range(36))
    assert name_of(labels, [0, 1, 2, 3]).name is None
    assert name_of(labels, [0, 1, 2, 3]).reason.startswith(
        "no label is over-represented: at best speech in 4 of 4 clips (36 of 40 in all, q "
    )


def test_a_rare_label_of_half_of_the_clips_is_evidence():
    labels = corpus(400, owl={0, 1, 2}, speech=range(50, 400))
    name = name_of(labels, [0, 1, 60, 61])
    assert name.name == "owl"
    assert name.support[0].startswith("owl in 2 of 4 clips (3 of 400 in all, q ")


def test_a_label_of_a_single_clip_is_no_name_however_rare():
    labels = corpus(40_000, owl={0})
    name = name_of(labels, [0, 1, 2, 3])
    assert name.name is None
    assert name.reason.startswith("no over-represented label is in two clips: at best owl in 1 of 4 clips (1 of 40000 ")


def test_several_labels_name_a_concept_that_has_them_all_or_is_shared_among_them():
    both = corpus(400, owl=range(8), forest=[*range(6), 20, 21])
    assert name_of(both, [0, 1, 2, 3]).name == "forest and owl"
    assert name_of(both, [0, 1, 2, 3]).phrases == ["forest", "owl"]
    shared = corpus(400, owl=range(8), bell=range(20, 28))
    assert name_of(shared, [0, 1, 20, 21]).name == "bell and owl"
    few = corpus(4000, owl=range(8), bell=range(20, 28))
    assert name_of(few, [*range(8), *range(100, 110), 20, 21]).name == "owl"  # two of twelve that it leaves out


def test_of_nested_labels_only_the_most_over_represented_is_named():
    labels = corpus(400, Owl=range(8), Bird=range(20), Animal_sounds=range(40))
    assert name_of(labels, [0, 1, 2, 3]).name == "Owl"
    assert name_of(labels, [0, 10, 11, 12]).name == "Bird"
    assert name_of(labels, [0, 30, 31, 32]).name == "Animal sounds"


def test_clips_without_labels_do_not_count():
    labels = corpus(400, owl=range(8))
    silent = [*labels, *[[] for _ in range(1000)]]
    (name,) = LabelNamer()(Concepts(torch.tensor([[0, 1, 400, 401]]), labels=silent))
    assert name.support[0].startswith("owl in 2 of 2 clips (8 of 400 in all, q ")
    assert name_of(silent, [400, 401, 402, 403]).reason == "none of its clips has a label"


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_is_a_share(rate):
    with pytest.raises(UserError, match=f"rate {rate} of the labels is out of range"):
        LabelNamer(rate=rate).check()


def test_names_are_true_of_clips_that_share_a_label(truth):
    names = LabelNamer()(truth.concepts)
    for label, top, name in zip(truth.labels, truth.concepts.top_ids.tolist(), names, strict=True):
        stated = name.name.split(" and ")
        assert label in stated or "voice" in label + name.name  # a voice has an emotion and a gender
        for one in stated:
            assert sum(one in truth.concepts.labels[clip] for clip in top) >= 2


def test_random_clips_have_no_name_beyond_the_rate(truth):
    """Where no label is over-represented, the false-discovery rate is the chance of any name at all."""
    groups = truth.random.top_ids.split(20)
    with_name = sum(any(name.name for name in LabelNamer()(truth.random._replace(top_ids=ids))) for ids in groups)
    assert with_name <= binom.ppf(0.999, len(groups), 0.05)
