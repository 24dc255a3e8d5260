"""Directions that are known beforehand are found, and random ones are as long as they should be."""

import math

import pytest
import torch

from ard.steering.directions import (
    Heard,
    audio_minus_silence,
    difference_of_means,
    linear_probe,
    random_directions,
)

WIDTH = 16


def planted(seed, num=200):
    """Clips of two classes that a planted direction tells apart, in noise of any variance a coordinate."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
    source, target = torch.randn(2, num, WIDTH, generator=generator)
    return 0.5 * source, 0.5 * target + 4 * direction, direction


@pytest.mark.parametrize("seed", range(5))
def test_the_planted_direction_is_found(seed):
    source, target, direction = planted(seed)
    assert float(difference_of_means(source, target) @ direction) > 0.99
    assert float(audio_minus_silence(target, source) @ direction) > 0.99
    assert float(linear_probe(source, target) @ direction) > 0.85  # it also minds the noise
    for found in (difference_of_means(source, target), linear_probe(source, target)):
        assert float(found.norm()) == pytest.approx(1, abs=1e-5)


def test_the_probe_grows_along_the_log_odds_whatever_the_coordinates_scale():
    """One coordinate tells the classes apart; another, a thousand times as large, does not."""
    source, target, _ = planted(0)
    noise = 1000 * torch.randn(2, len(source), generator=torch.Generator().manual_seed(1))
    source, target = torch.randn(len(source), 2), torch.randn(len(source), 2)
    source[:, 1], target[:, 1], target[:, 0] = *noise, target[:, 0] + 5
    assert float(linear_probe(source, target)[0]) > 0.999


def test_equal_classes_have_no_direction():
    clips = torch.ones(3, WIDTH)
    assert difference_of_means(clips, clips).tolist() == [0] * WIDTH


def test_the_spread_of_tokens_is_their_distance_from_the_mean():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(50, 40, WIDTH, generator=generator) + 7
    heard = Heard(tokens.mean(dim=1), tokens.square().sum(dim=2).mean(dim=1))
    distance = (tokens - tokens.mean(dim=(0, 1))).square().sum(dim=2).mean().sqrt()
    assert heard.spread() == pytest.approx(float(distance), rel=1e-4)
    assert heard.spread() == pytest.approx(math.sqrt(WIDTH), rel=0.05)


def test_random_directions_are_unit_vectors_towards_all_sides():
    drawn = random_directions(2000, WIDTH, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(2000))
    assert float(drawn.mean(dim=0).norm()) < 0.1
    again = random_directions(2000, WIDTH, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
