"""What a core needs to resample is counted by the taps of the filter that `resample` uses."""

import numpy as np
import pytest
from scipy.signal import resample_poly

from ard.plan.machine import RESAMPLE_S, resampling_s


def seconds(num_samples, from_hz, to_hz):
    return resampling_s(np.array(num_samples), np.array(from_hz), to_hz)


def test_clips_at_the_models_rate_cost_nothing():
    assert seconds([16_000, 32_000], [16_000, 16_000], 16_000) == 0.0


def test_clips_of_several_rates_are_added_up():
    alone = seconds([32_000], [32_000], 16_000) + seconds([44_100, 44_100], [44_100, 44_100], 16_000)
    assert seconds([44_100, 32_000, 44_100, 5], [44_100, 32_000, 44_100, 16_000], 16_000) == pytest.approx(alone)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(32_000, 16_000), (44_100, 48_000), (16_000, 48_000)])
def test_a_sample_of_the_result_takes_the_taps_that_meet_a_sample(from_hz, to_hz):
    """The response to a single sample has as many values as there are taps for it."""
    shared = np.gcd(from_hz, to_hz)
    up, down = to_hz // shared, from_hz // shared
    impulse = np.zeros(400)
    impulse[200] = 1.0
    num_products = np.count_nonzero(np.abs(resample_poly(impulse, up, down)) > 0)  # of one sample with taps
    per_sample = seconds([1_000_000], [from_hz], to_hz) / RESAMPLE_S / 1_000_000
    assert num_products == pytest.approx(per_sample, rel=0.35)  # half of the taps at some rates are zero
