"""Nothing hangs, and nothing ends in a traceback or with the wrong answer."""

from experiments.torture.case import Case

CASES: list[Case] = []
