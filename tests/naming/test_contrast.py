"""Contrast against plain loops, and what names lists of clips that were made for it."""

import pytest
import torch
from torch.nn.functional import normalize

from ard.naming import contrast as module
from ard.naming.contrast import contrast, phrases_by_contrast


def unit(*shape, seed):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("seed", range(5))
def test_contrast_is_the_standard_score_of_the_mean_cosine(seed):
    phrases, clips, lists = unit(7, 5, seed=seed), unit(30, 5, seed=seed + 50), torch.arange(12).reshape(4, 3)
    found = contrast(phrases, clips, lists)
    for row, phrase in enumerate(phrases.double()):
        cosines = clips.double() @ phrase
        for column, rows in enumerate(lists):
            expected = (cosines[rows].mean() - cosines.mean()) / cosines.std(unbiased=False)
            assert float(found[row, column]) == pytest.approx(float(expected), abs=1e-6)


def test_a_phrase_that_is_equally_close_to_all_clips_has_no_contrast():
    clips = 0.5**0.5 * torch.cat([torch.ones(20, 1), unit(20, 2, seed=0)], dim=1)
    assert contrast(torch.tensor([[1.0, 0.0, 0.0]]), clips, torch.arange(4)[None]).item() == 0


def corpus(num_clips=400, num_sounds=20, d=32, noise=0.5):
    """Return the directions of sounds, clips of one sound each, and the sound of every clip."""
    sounds = unit(num_sounds, d, seed=1)
    of_clip = torch.arange(num_clips) % num_sounds
    spread = noise * torch.randn(num_clips, d, generator=torch.Generator().manual_seed(2)) / d**0.5
    return sounds, normalize(sounds[of_clip] + spread, dim=1), of_clip


def find(sounds, clips, tops, rate=0.05):
    generator = torch.Generator().manual_seed(0)
    return phrases_by_contrast(sounds, clips, torch.tensor(tops), rate, generator=generator)


def test_one_sound_gives_one_phrase_and_two_sounds_give_two(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 3)
    sounds, clips, of_clip = corpus()
    of_sound = [(of_clip == sound).nonzero()[:, 0].tolist() for sound in range(3)]
    one = of_sound[0][:6]
    two = of_sound[0][:3] + of_sound[1][:3]
    stray = of_sound[0][:5] + of_sound[2][:1]
    alike = find(sounds, clips, [one, two, stray])
    assert [sorted(phrase.row for phrase in of_concept.passed) for of_concept in alike] == [[0], [0, 1], [0]]
    assert [phrase.num_clips for of_concept in alike for phrase in of_concept.passed] == [6, 3, 3, 5]
    assert alike[0].ranked[0] == 0
    assert all(0 < phrase.p_value <= 0.05 for of_concept in alike for phrase in of_concept.passed)


def test_a_phrase_in_a_single_clip_is_no_name_however_high_its_contrast():
    sounds, clips, of_clip = corpus(num_clips=2000, num_sounds=1000, d=400, noise=0.1)
    tops = [[0, 1, 2, 3], [5, 6, 7, 8]]  # four sounds each, twice in the corpus
    assert (of_clip[torch.tensor(tops)].sort(dim=1).values.diff(dim=1) > 0).all()
    for of_concept in find(sounds, clips, tops, rate=0.9999):
        assert not of_concept.passed
        assert of_concept.failed[0].num_clips == 1


def test_p_values_are_those_of_the_highest_contrast_over_all_phrases():
    sounds, clips, _ = corpus()
    generator = torch.Generator().manual_seed(7)
    tops = [torch.randperm(len(clips), generator=generator)[:4].tolist() for _ in range(200)]
    tried = [(of_concept.passed or of_concept.failed)[0] for of_concept in find(sounds, clips, tops, rate=0.5)]
    p_values = torch.tensor([phrase.p_value for phrase in tried])
    for rate in (0.1, 0.3, 0.6):
        assert float((p_values <= rate).float().mean()) == pytest.approx(rate, abs=0.11)
