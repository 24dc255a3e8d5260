"""The page of the tests of names is filled from its file."""

import json

from experiments import checks


def test_the_page_has_the_figures_of_its_file():
    kept = json.loads(checks.KEPT.read_text(encoding="utf-8"))
    page = checks.PAGE.read_text(encoding="utf-8")
    assert checks.fill(page, checks.blocks(kept)) == page, "run `python -m experiments.checks`"


def test_draws_are_pooled_and_what_could_not_be_measured_is_left_open():
    rows = [{"figures": {"purity": [value, None, None]}} for value in (0.2, 0.4, None)]
    assert checks._pooled(rows, "purity") == "0.30 (0.20 to 0.40)"
    assert checks._pooled(rows[2:], "purity") == "–"
    assert checks._pooled([{"figures": {"purity": [0.5, 0.4, 0.6]}}], "purity") == "0.50 [0.40, 0.60]"
