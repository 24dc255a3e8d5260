"""Progress: a bar on a terminal, now and then a line elsewhere."""

import io
import time

import pytest
from rich.console import Console

from ard import console
from ard.console import Progress, at_work, tracked
from ard.types import Failure


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_lines_are_few_and_say_how_much_time_is_left(clock, capsys):
    with Progress("activations", 10_000) as progress:
        for _ in range(10_000):
            clock.now_s += 0.5
            progress.advance()
    shown = lines(capsys)
    assert shown[:3] == [
        "  activations: 4 of 10,000 clips, 2.0/s, about 1:23:18 left",
        "  activations: 8 of 10,000 clips, 2.0/s, about 1:23:16 left",
        "  activations: 16 of 10,000 clips, 2.0/s, about 1:23:12 left",
    ]
    assert shown[-1] == "  activations: 9,968 of 10,000 clips, 2.0/s, about 0:16 left"
    assert len(shown) < 5000 / 60 + 10


def test_a_stage_of_two_seconds_is_not_worth_a_line(clock, capsys):
    with Progress("training", 100, "steps") as progress:
        for _ in range(100):
            clock.now_s += 0.0199
            progress.advance()
    assert lines(capsys) == []


@pytest.mark.parametrize(
    ("seconds", "number", "rate"), [(5, 6170, "1,234/s"), (4, 38, "9.5/s"), (90, 3, "2.0/min")], ids=str
)
def test_the_rate_is_a_second_or_where_that_is_little_a_minute(clock, capsys, seconds, number, rate):
    with Progress("captions", None, "clips") as progress:
        clock.now_s += seconds
        progress.advance(number)
    assert lines(capsys) == [f"  captions: {number:,} clips, {rate}"]


def test_the_time_left_is_by_the_pace_of_this_run(clock, capsys):
    with Progress("training", 600, "steps", done=500) as progress:
        clock.now_s += 10
        progress.advance(10)
    assert lines(capsys) == ["  training: 510 of 600 steps, 1.0/s, about 1:30 left"]


def test_nothing_is_promised_where_the_total_is_unknown_or_another_rank_shows_it(clock, capsys):
    for settings in ({"total": None}, {"total": 5, "disable": True}):
        with Progress("audio", **settings) as progress:
            clock.now_s += 3
            progress.advance()
    assert lines(capsys) == ["  audio: 1 clips, 0.3/s"]


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "console", screen)
    with Progress("[training]", 600, "steps", done=200) as progress:
        progress.advance(100)
    with at_work("MatchLabels, 6 of 11"):
        pass
    shown = screen.file.getvalue()
    assert "[training]" in shown
    assert "300 of 600 steps" in shown
    assert "MatchLabels, 6 of 11" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


def test_the_pieces_of_a_long_file_count_as_one(clock, capsys):
    names = ["a", "b#0000", "b#0001", "b#0002", "c"]
    for item in tracked([Failure(name, "audio", "") for name in names], "audio"):
        clock.now_s += 2.5 if item.id == "c" else 0
    assert lines(capsys) == ["  audio: 3 of 5 clips, 1.2/s, about 0:02 left"]


def test_what_cannot_be_counted_is_named_if_it_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(console, "FIRST_LINE_S", 0.05)
    with at_work("short"):
        pass
    with at_work("MatchLabels, 6 of 11"):
        time.sleep(0.2)
    assert lines(capsys) == ["  MatchLabels, 6 of 11"]
