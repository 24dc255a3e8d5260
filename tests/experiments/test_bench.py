"""Benchmarks run through at toy size, and parts of two commits in turn."""

import subprocess

import pytest

from experiments.bench import against, checks, hearing
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


@pytest.mark.slow
def test_another_commit_is_timed_beside_this_one_and_its_folder_goes_again():
    with against.checked_out("HEAD") as tree:
        assert (tree / "ard/types.py").is_file()
        found = against.in_turn(["retrieval"], (against.ROOT, tree), 2)["retrieval"]
        assert against.subject(tree) == against.subject(against.ROOT)
    assert len(found) == 2
    assert all(seconds > 0 for pair in found for seconds in pair)
    assert not tree.exists()
    listed = subprocess.run(["git", "-C", against.ROOT, "worktree", "list"], check=True, capture_output=True, text=True)
    assert str(tree) not in listed.stdout


@pytest.mark.slow
def test_what_cannot_be_timed_is_said(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/__init__.py").touch()  # without what the part needs
    with pytest.raises(SystemExit, match=r"part 'sae' cannot be done by both commits \(cannot: ModuleNotFoundError"):
        against.in_turn(["sae"], (tmp_path,), 1)
    with pytest.raises(SystemExit, match="commit 'none-such' cannot be checked out"):
        against.main("none-such")
    with pytest.raises(SystemExit, match="part 'coffee' does not exist: choose of sae, robust"):
        against.main("HEAD", ["coffee"])


@pytest.mark.slow
def test_pairs_of_a_sound_and_words_take_time():
    pairs, prompt, making, figures = hearing.main(num_pairs=1, repeats=1)
    assert pairs.value == pytest.approx(6 * prompt.value)
    assert 0 < making.value < 1
    assert figures.value > 0
