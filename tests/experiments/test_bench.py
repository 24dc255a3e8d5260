"""Benchmarks run through at toy size."""

import pytest

from experiments.bench import checks
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


def test_the_tests_of_names_are_timed():
    lines = checks.main(checks.Size(concepts=12, clips=60, made=20, labels=30, dimensions=8, trials=2))
    assert len({line.what for line in lines}) == 4
    assert all(line.value > 0 for line in lines)
