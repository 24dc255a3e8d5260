"""The simulation of chance: a small one, and the page of the whole one."""

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from ard.representatives import Ties
from experiments import null_simulation
from experiments.null_simulation import NULLS, RATE, TEMPLATE, P, Size, concept_lists, main, page, run, simulate

SMALL = Size(num_orders=2, num_clips=80, num_features=120, num_true=10, num_null_draws=500)


def rows_of(text):
    return [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")
    ]


def check_format(text):
    for part in re.split(r"\{\w+\}", TEMPLATE):
        assert part in text
    head, _, claimed, *rows = rows_of(text)
    assert claimed[0] == "claimed" or claimed[1] == "claimed"
    assert [row[:2] for row in rows] == [[f"`{ties}`", null] for ties in get_args(Ties) for null in NULLS]
    for row in rows:
        assert len(row) == len(head) == 8
        for cell in row[2:]:
            assert re.fullmatch(r"\d\.\d{2,3}( \((\d\.\d{3} to|at most) \d\.\d{3}\))?", cell)
    return rows


def test_a_small_simulation_has_the_pages_format(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(null_simulation, "Size", lambda num_orders=1: SMALL._replace(num_orders=num_orders))
    main(["--seed", "3", "--num_orders", "2", "--out", str(tmp_path / "null.md")])
    text = (tmp_path / "null.md").read_text(encoding="utf-8")
    check_format(text)
    assert "--seed 3 --num_orders 2" in text
    assert "(seed 3)" in text
    assert text in capsys.readouterr().out
    assert rows_of(text) == rows_of(page(SMALL, 3, "again"))


def test_the_page_is_of_the_whole_simulation_and_the_null_holds_there():
    """The pooled null is there to be seen to fail where features share an L^k."""
    text = Path("docs/null.md").read_text(encoding="utf-8")
    assert f"In each of {Size().num_orders} random orders of {Size().num_clips} clips" in text
    for ties, null, at_random, retrieved, *_, false, _ in check_format(text):
        numbers = [[float(x) for x in re.findall(r"\d\.\d+", cell)] for cell in (at_random, retrieved, false)]
        if null == "given each L^k":
            assert numbers[0][0] == pytest.approx(RATE, abs=0.005)
            assert numbers[1][0] == pytest.approx(RATE, abs=0.005)
            assert numbers[2][0] < RATE + 0.01
        elif ties in ("`stable`", "`shared_random`"):
            assert numbers[0][1] < 0.02 or numbers[0][2] > 0.1


@pytest.mark.parametrize("ties", get_args(Ties))
def test_lists_are_those_of_the_rule_of_ties(ties):
    world = simulate(SMALL, ties, torch.Generator().manual_seed(0))
    assert all(len(set(row)) == P for side in (world.top, world.bottom) for row in side.tolist())
    distinct = len({tuple(sorted(row)) for row in world.bottom.tolist()})
    assert (distinct > 100) == (ties in ("seeded_random", "preact"))
    if ties == "stable":
        assert world.bottom.max() < SMALL.num_clips / 2
    true = concept_lists(world, 20, torch.Generator().manual_seed(0))
    assert (world.concepts[true] == world.concepts[true[:, :1]]).all()


def test_what_is_found_is_counted():
    for found in run(SMALL, "seeded_random", 0).values():
        assert len(found) == 2
        for of_order in found:
            assert of_order.p_value.shape == of_order.retrieved.shape == (120,)
            assert 0 <= of_order.true <= 10
            assert np.isfinite(of_order.p_value).all()
