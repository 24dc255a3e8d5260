"""The quick cases of the torture, and the runner itself: what it makes of cases that fall short, hang and die."""

import os
import signal
import time

import pytest

from experiments.torture import SECTIONS, cases_of
from experiments.torture.case import Case
from experiments.torture.runner import attempt

QUICK = {
    f"{section}: {case.input}": case for section, module in SECTIONS.items() for case in cases_of(module) if case.quick
}


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK.values(), ids=QUICK)
def test_a_quick_case_holds(case, tmp_path):
    assert case.run(tmp_path)


def fall_short(folder):
    raise AssertionError("two\nlines")


CASES = [
    Case("a folder of its own", lambda folder: f"{len(list(folder.iterdir()))} files"),
    Case("a wrong answer", fall_short),
    Case("a wait without end", lambda folder: time.sleep(1000)),
    Case("a crash", lambda folder: os.kill(os.getpid(), signal.SIGSEGV)),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "happened", "verdict"),
    [
        (0, "0 files", "holds"),
        (1, "AssertionError: two lines", "falls short"),
        (2, "nothing for 1 s", "hung"),
        (3, "the process ended with exit code -11", "died"),
    ],
)
def test_a_case_can_do_what_it_likes_and_the_runner_says_what(number, happened, verdict):
    outcome = attempt("tests.experiments.test_torture", number, limit_s=1.0 if verdict == "hung" else 60.0)
    assert outcome[1:3] == (happened, verdict)
