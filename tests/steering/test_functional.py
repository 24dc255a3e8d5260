import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.text import perplexity as reference_perplexity

from ard.steering.functional import (
    counted,
    equal_damage,
    is_selection,
    matched_features,
    perplexity,
    sensitivity_samples,
)


def test_denominators_count_what_they_say():
    heard, true = np.array([1.0, 1.0, 0.0, math.nan]), np.array([True, False, True, True])
    assert counted("predicted", heard, true).tolist() == [True, True, False, False]
    assert counted("truth", heard, true).tolist() == [True, False, True, True]
    assert counted("dataset", heard, true).tolist() == [True] * 4


def test_an_unreadable_verdict_is_no_no():
    reached, among = np.array([1.0, math.nan, 0.0, 1.0]), np.array([True, True, True, False])
    assert sensitivity_samples(reached, among).tolist() == [1.0, 0.0]
    assert len(sensitivity_samples(reached, np.zeros(4, dtype=bool))) == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_features_fire_about_as_often_and_are_none_of_the_chosen(seed):
    generator = torch.Generator().manual_seed(seed)
    n_active = torch.randint(0, 400, (300,), generator=generator)
    chosen = torch.randperm(300, generator=generator)[:6].tolist()
    drawn = matched_features(n_active, chosen, generator=generator, nearest=5)
    assert len(set(drawn)) == len(drawn) == 6
    assert not set(drawn) & set(chosen)
    for feature, other in zip(chosen, drawn, strict=True):
        assert n_active[other] > 0
        distances = (n_active.double().log() - max(float(n_active[feature].double().log()), 0.0)).abs()
        free = [i for i in range(300) if n_active[i] > 0 and i not in chosen]
        within = sorted(float(distances[i]) for i in free)[5 + 6 - 1]  # up to five others may have been taken
        assert float(distances[other]) <= within


def test_draws_follow_the_generator_and_differ():
    n_active = torch.arange(1, 200)
    draws = [matched_features(n_active, [50, 90], generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_there_may_be_no_others_left():
    n_active = torch.tensor([3, 4, 0, 5])
    assert matched_features(n_active, [0, 1, 3], generator=torch.Generator()) == []
    assert matched_features(n_active, [0, 1], generator=torch.Generator()) == [3]


@pytest.mark.parametrize("seed", range(5))
def test_perplexity_is_that_of_torchmetrics(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 7, 11, generator=generator)
    tokens = torch.randint(11, (4, 7), generator=generator)
    is_said = torch.arange(7) < torch.tensor([7, 3, 1, 0])[:, None]
    each = logits.log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]
    found = perplexity((each * is_said).sum(dim=1).tolist(), is_said.sum(dim=1).tolist())
    expected = reference_perplexity(logits, tokens.masked_fill(~is_said, -100), ignore_index=-100)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_nothing_said_has_no_perplexity():
    assert math.isnan(perplexity([], []))
    assert math.isnan(perplexity([0.0], [0]))


def test_a_share_of_the_clips_is_for_choosing_by_their_ids_alone():
    ids = [f"iemocap-emotion-{n:04d}" for n in range(2000)]
    chosen = {clip_id for clip_id in ids if is_selection(clip_id, 0.1, seed=0)}
    assert 150 < len(chosen) < 250
    assert chosen == {clip_id for clip_id in reversed(ids) if is_selection(clip_id, 0.1, seed=0)}
    assert chosen != {clip_id for clip_id in ids if is_selection(clip_id, 0.1, seed=1)}
    assert not any(is_selection(clip_id, 0.0, seed=0) for clip_id in ids)
    assert all(is_selection(clip_id, 1.0, seed=0) for clip_id in ids)


@pytest.mark.parametrize(("named", "dose"), [(1.0, 2.0), (0.9, 2.0), (0.8, 1.0), (None, 2.0)])
def test_sounds_that_captions_no_longer_name_are_damage(named, dose):
    def point(multiple, **named):
        return {"multiple": multiple, "readable": {"value": 1.0}, "kept": [{"value": 1.0}], **named}

    of_captions = {} if named is None else {"named": {"value": named}}
    points = [point(None), point(0.0), point(1.0, named={"value": 0.95}), point(2.0, **of_captions)]
    assert equal_damage(points)["multiple"] == dose
