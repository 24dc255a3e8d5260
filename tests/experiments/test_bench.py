"""The benchmark of Table 3's parts runs through at toy size."""

import pytest

from experiments.bench.table3 import Size, main

SMALL = Size(
    selection=24,
    measured=8,
    conditions=4,
    features=4,
    effect_clips=2,
    draws=1,
    training_steps=2,
    rounds=1,
    design={"num_features": [2], "multiples": [4.0], "doses": [1.0], "most_clips": 4, "most_candidates": 2},
)


@pytest.mark.slow
def test_every_part_of_a_task_takes_time_and_a_short_cut_saves_some():
    lines = main(SMALL)
    times = {line.what: line.value for line in lines}
    assert len(times) == len(lines)  # no two have one name
    assert all(value > 0 for value in times.values())
    for what in ("the same, with all computed for each", "the same, one feature at a time"):
        assert times[what] > 1, what
    assert times["share of a core that the process had"] < 1.1
