"""docs/plan.md is what the plan says now, and the plan is near to what else is known."""

import json

import pytest

from experiments.plan import COMPARED, CORE, DOCS, GPU, card_of, page


@pytest.fixture(scope="module")
def kept():
    return [json.loads((DOCS / name).read_text(encoding="utf-8")) for name in ("bench-gpu.json", "bench.json")]


@pytest.mark.slow
def test_the_page_is_what_the_plan_says_now(kept):
    assert (DOCS / "plan.md").read_text(encoding="utf-8") == page(*kept), "run `python -m experiments.plan`"


@pytest.mark.slow
def test_the_plan_is_near_the_arithmetic():
    for one in COMPARED:
        assert 1 / 3 < one.planned(GPU) / one.arithmetic < 3, one.what


@pytest.mark.slow
def test_a_step_takes_what_was_measured_on_a_gpu(kept):
    """To within a third."""
    card, steps = card_of(kept[0]), [one for one in COMPARED if one.what.startswith("training step")]
    assert len(steps) == 10
    for one in steps:
        assert one.planned(card) == pytest.approx(one.measured(kept[0]), rel=1 / 3), one.what


@pytest.mark.parametrize("what", CORE)
def test_a_core_needs_what_was_measured(what, kept):
    """To within a factor of two: machines differ."""
    (measured,) = (line["value"] for line in kept[1]["preparing"]["lines"] if line["what"] == what)
    assert 1 / 2 < CORE[what] / measured < 2


def test_only_a_card_with_a_data_sheet_is_planned_for():
    assert card_of({"machine": {"card": "NVIDIA H200, 140 GiB"}}) == "H200"
    assert card_of({"machine": {"card": "NVIDIA GeForce GTX 1080"}}) is None
