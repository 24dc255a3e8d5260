"""Formulas on names: which ones say the same, fit their clips, state a label; which labels chance does not explain."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import hypergeom
from torch import Tensor

BLOCK = 256  # names compared at once
SAME = 1e-6  # cosines that differ by less are equal: the same clip's differ so between products of other shapes


class Evidence(NamedTuple):
    """How close names are to the clips of their H^k, and to clips drawn at random."""

    clap: Float[Tensor, " concepts"]  # mean cosine to the clips of H^k
    clap_random: Float[Tensor, " concepts"]  # mean cosine to random clips: the level of any name
    clap_percentile: Float[Tensor, " concepts"]  # share of random clips that a clip of H^k beats; 0.5 is chance


def name_evidence(
    names: Float[Tensor, "concepts d"], clips: Float[Tensor, "concepts p d"], others: Float[Tensor, "clips d"]
) -> Evidence:
    """Compare the unit vectors of names with the clips of their H^k and with random clips; ties count half."""
    own = torch.stack([(name[None] @ top.T)[0] for name, top in zip(names, clips, strict=True)])
    chance, percentile = torch.empty(len(names)), torch.empty(len(names))
    for start in range(0, len(names), BLOCK):
        part = slice(start, start + BLOCK)
        cosine = (names[part] @ others.T).sort(dim=1).values
        below, up_to = (torch.searchsorted(cosine, own[part] + shift) for shift in (-SAME, SAME))
        chance[part] = cosine.mean(dim=1)
        percentile[part] = ((below + up_to) / (2 * len(others))).mean(dim=1)
    return Evidence(own.mean(dim=1), chance, percentile)


def near_duplicates(names: Float[Tensor, "names d"], threshold: float) -> Int[Tensor, " names"]:
    """Return, for every name, the row of the name that it repeats; -1 if it repeats none.

    Names are ordered best first. A name repeats the closest of the earlier names that repeat none themselves, if their
    cosine reaches the threshold. Names are processed 256 at a time, so that the full matrix of cosines is never built.
    """
    repeated = torch.full((len(names),), -1)
    firsts = torch.empty(0, dtype=torch.int64)
    for start in range(0, len(names), BLOCK):
        block = torch.arange(start, min(start + BLOCK, len(names)))
        columns = torch.cat([firsts, block])
        cosine = names[block] @ names[columns].T
        is_first = columns < start
        for index, row in enumerate(block.tolist()):
            closest, column = cosine[index].masked_fill(~is_first, -torch.inf).max(dim=0)
            if closest >= threshold:
                repeated[row] = columns[column]
            else:
                is_first[len(firsts) + index] = True
        firsts = columns[is_first]
    return repeated


class Occurrence(NamedTuple):
    """How often a label occurs in a list of clips, and whether chance explains it."""

    label: str
    num_clips: int  # of the list, those that have it
    frequency: int  # of all labelled clips, those that have it
    p_value: float  # chance that as many clips or more, drawn at random without replacement, have it
    q_value: float  # lowest false-discovery rate at which it passes


def over_represented(lists: Sequence[Sequence[int]], labels: Sequence[Sequence[str]]) -> list[list[Occurrence]]:
    """Return the labels that occur in each list of clips, the most over-represented first.

    If K of the N labelled clips have a label, and k of the n labelled clips of a list, the p-value is the upper tail
    P(X >= k) of the hypergeometric distribution of n draws. The q-value is that of Benjamini and Hochberg over all
    labels and all lists with labelled clips; those that do not occur (p-value 1) count among the tests.

    Args:
        lists: clips by their number, each list without doubles.
        labels: the labels of every clip; a clip without any is unlabelled, and left out everywhere.

    Example:
        >>> from ard.naming.functional import over_represented
        >>> labels = [["dog"], ["dog"], ["rain"], ["rain"], ["rain"], ["rain"]]
        >>> (first,), _ = over_represented([[0, 1], [2, 5]], labels)
        >>> first.num_clips, first.frequency, round(first.p_value, 4), round(first.q_value, 4)
        (2, 2, 0.0667, 0.2667)
    """
    frequency = Counter(label for of_clip in labels for label in set(of_clip))
    labelled = [[clip for clip in clips if labels[clip]] for clips in lists]
    counts = [Counter(label for clip in clips for label in set(labels[clip])) for clips in labelled]
    pairs = [(place, label, count) for place, of_list in enumerate(counts) for label, count in of_list.items()]
    num_labelled, num_tests = sum(map(bool, labels)), len(frequency) * sum(map(bool, labelled))
    draws = np.array([(count, frequency[label], len(labelled[place])) for place, label, count in pairs]).reshape(-1, 3)
    distinct, place_of = np.unique(draws, axis=0, return_inverse=True)
    p_values = hypergeom.sf(distinct[:, 0] - 1, num_labelled, distinct[:, 1], distinct[:, 2])[place_of.reshape(-1)]
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * num_tests / np.arange(1, len(order) + 1)
    q_values = np.empty_like(p_values)
    q_values[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    occurrences: list[list[Occurrence]] = [[] for _ in lists]
    for (place, label, count), p_value, q_value in zip(pairs, p_values.tolist(), q_values.tolist(), strict=True):
        occurrences[place].append(Occurrence(label, count, frequency[label], p_value, q_value))
    return [sorted(of_list, key=lambda one: (one.p_value, one.label)) for of_list in occurrences]


def labels_in(name: str | None, labels: Iterable[str]) -> list[str]:
    """Return those labels whose words a name contains in sequence, in alphabetical order.

    Example:
        >>> from ard.naming.functional import labels_in
        >>> labels_in("man speaking in a sad voice", ["sad voice", "Man_speaking", "voice of a man"])
        ['Man_speaking', 'sad voice']
    """
    words = f" {' '.join(_words(name or ''))} "
    return sorted(label for label in labels if f" {' '.join(_words(label))} " in words)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
