"""Formulas over names against plain loops and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, fisher_exact
from sklearn.metrics import roc_auc_score
from torch.nn.functional import normalize

from ard.naming import functional
from ard.naming.functional import labels_in, name_evidence, near_duplicates, over_represented


def unit(*shape, seed):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("seed", range(8))
def test_near_duplicates_repeat_the_closest_earlier_name_that_repeats_none(seed, monkeypatch):
    monkeypatch.setattr(functional, "BLOCK", 7)
    names, threshold = unit(3 * seed, 3, seed=seed), 0.8
    expected, firsts = [], []
    for row, name in enumerate(names):
        closest = max(firsts, key=lambda other: float(names[other] @ name), default=None)
        if closest is not None and names[closest] @ name >= threshold:
            expected.append(closest)
        else:
            expected.append(-1)
            firsts.append(row)
    assert near_duplicates(names, threshold).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_the_percentile_is_the_auroc_of_the_clips_against_random_ones(seed):
    names, clips, others = unit(5, 4, seed=seed), unit(5, 3, 4, seed=seed + 50), unit(20, 4, seed=seed + 90)
    clips[0, 0] = others[0]  # a tie
    found = name_evidence(names, clips, others)
    for row in range(5):
        own, chance = (clips[row] @ names[row]).numpy(), (others @ names[row]).numpy()
        assert float(found.clap[row]) == pytest.approx(own.mean(), abs=1e-6)
        assert float(found.clap_random[row]) == pytest.approx(chance.mean(), abs=1e-6)
        area = roc_auc_score([1] * 3 + [0] * 20, np.round(np.concatenate([own, chance]), 6))
        assert float(found.clap_percentile[row]) == pytest.approx(area, abs=1e-6)


def test_a_clip_that_is_also_drawn_at_random_ties_with_itself_in_batches_of_any_size():
    """Products of other shapes round differently: here the clips of H^k are all clips, and half of them are below."""
    names, clips = unit(64, 512, seed=0), unit(32, 512, seed=1)
    for batch in (1, 3, 64):
        found = [name_evidence(part, clips.expand(len(part), 32, 512), clips) for part in names.split(batch)]
        assert torch.cat([one.clap_percentile for one in found]).tolist() == pytest.approx([0.5] * 64, abs=1e-6)


def test_names_that_fit_their_clips_only_surpass_all_random_clips():
    names = torch.eye(3)[:2]
    found = name_evidence(names, names[:, None].expand(2, 4, 3), torch.eye(3)[2:].expand(6, 3))
    assert found.clap.tolist() == found.clap_percentile.tolist() == [1, 1]
    assert found.clap_random.tolist() == [0, 0]


def test_over_representation_of_labels_by_hand():
    """Of six clips two have `dog`: both are drawn in one of the 15 pairs, one or more in 9 of them."""
    labels = [["dog"], ["dog", "dog"], ["rain"], ["rain"], ["rain"], ["rain"]]
    first, second = over_represented([[0, 1], [0, 2]], labels)
    assert [(one.label, one.num_clips, one.frequency) for one in first] == [("dog", 2, 2)]
    assert {one.label: one.p_value for one in second} == {
        "dog": pytest.approx(1 - 6 / 15),  # not both from the other four
        "rain": pytest.approx(1 - 1 / 15),  # not both dogs
    }
    p_values = [1 / 15, 1, 9 / 15, 14 / 15]  # all labels x lists, with those that do not occur
    q_values = false_discovery_control(p_values)
    found = [first[0].q_value, *(one.q_value for one in sorted(second))]
    assert found == pytest.approx([q_values[0], q_values[2], q_values[3]])


@pytest.mark.parametrize("seed", range(5))
def test_q_values_of_labels_are_those_of_all_tests_together(seed):
    rng = np.random.default_rng(seed)
    labels = [rng.choice(list("abcdefg"), rng.integers(0, 4), replace=False).tolist() for _ in range(60)]
    lists = [rng.choice(60, 5, replace=False).tolist() for _ in range(9)]
    labelled = {clip for clip, of_clip in enumerate(labels) if of_clip}
    p_values = {}
    for place, clips in enumerate(lists):
        own = [clip for clip in clips if clip in labelled]
        for label in "abcdefg":
            with_label = {clip for clip in labelled if label in labels[clip]}
            count = len(with_label.intersection(own))
            table = [[count, len(own) - count], [len(with_label) - count, 0]]
            table[1][1] = len(labelled) - len(own) - table[1][0]
            if own:
                p_values[place, label] = fisher_exact(table, alternative="greater").pvalue if count else 1.0
    q_values = dict(zip(p_values, false_discovery_control(list(p_values.values())), strict=True))
    found = over_represented(lists, labels)
    assert any(found)
    for place, of_list in enumerate(found):
        assert [one.p_value for one in of_list] == sorted(one.p_value for one in of_list)
        for one in of_list:
            assert one.p_value == pytest.approx(p_values[place, one.label])
            assert one.q_value == pytest.approx(q_values[place, one.label])


def test_no_labels_are_over_represented_where_there_are_none():
    assert over_represented([[0, 1], []], [[], []]) == [[], []]


def test_the_labels_in_a_name_are_those_whose_words_stand_in_it_in_sequence():
    assert labels_in("Man speaking in a sad voice", ["voice sad", "sad_voice", "man", "speak"]) == ["man", "sad_voice"]
    assert labels_in(None, ["man"]) == []
