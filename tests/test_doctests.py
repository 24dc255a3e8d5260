"""The examples in the docstrings of the formulas give what they say."""

import doctest
from importlib import import_module

import pytest

FORMULAS = [
    "ard.evaluation.functional",
    "ard.evaluation.matching",
    "ard.monosemanticity.functional",
    "ard.naming.consensus",
    "ard.naming.functional",
    "ard.representatives.functional",
    "ard.sae.functional",
    "ard.steering.axbench",
    "ard.steering.captions",
    "ard.steering.forecast",
    "ard.steering.functional",
    "ard.steering.judge",
]


@pytest.mark.parametrize("name", FORMULAS)
def test_examples_give_what_they_say(name):
    done = doctest.testmod(import_module(name))
    assert done.attempted > 0
    assert done.failed == 0
