"""What stands on a concept's page is what the files say of it: its null, effects, labels, doses and neighbours."""

import math
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ard.reports.chance import HEIGHT, NUM_BINS, WIDTH, chance_of, said_of
from ard.reports.concepts import read_concepts
from ard.reports.pages import Pages
from ard.reports.strips import Strips
from ard.results import Result
from ard.run import Run
from experiments.bench.made_run import TASK, write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("made"), 24, 6, 0.2, num_sounds=4)


@pytest.fixture(scope="module")
def pages(made):
    rows = [row for row in read_concepts(made.own) if row["selected"]]
    clips = {row["id"]: row for row in pq.read_table(made.clips).to_pylist()}
    return Pages(made, rows, Strips(made.own, clips, {}))


def test_a_page_has_what_the_files_say(made, pages):
    named = [row["feature"] for row in pages.rows if row["name"]]
    concepts = {concept.feature: concept for concept in map(pages.concept, range(len(pages.rows)))}
    for place, feature in enumerate(named):
        concept = concepts[feature]
        (found,) = concept.found if place < 20 else (None,)
        assert found is None or (found.label, found.auroc) == (f"label {place}", 0.9)
        (effect,) = concept.effects
        assert (effect.task, effect.effect, effect.interval, effect.chance) == (
            TASK,
            "+0.200",
            "[+0.100, +0.300]",
            "±0.050",
        )
        assert [(dose.drawing.task, dose.num_others) for dose in concept.doses] == ([(TASK, 1)] if place < 2 else [])
    assert [concept.before and concept.before.page for concept in concepts.values()][:2] == [
        None,
        f"3-{pages.rows[0]['feature']}.html",
    ]


def test_an_auroc_without_clips_to_compare_is_not_shown_as_chance(made, pages):
    rows = made.own.rows("effects")
    made.own.save_rows("effects", [{**row, "auroc": 0.5, "q_value": math.nan} for row in rows])
    unknown = Pages(made, pages.rows, pages.strips)
    made.own.save_rows("effects", rows)
    effects = [effect for place in range(len(unknown.rows)) for effect in unknown.concept(place).effects]
    assert {(effect.auroc, effect.q_value) for effect in effects} == {("–", "no clips to compare")}


def test_a_setting_is_called_as_in_the_tables(made, pages):
    path = made.own.result_path("steering")
    content, result = path.read_bytes(), Result.load(path)
    for task in result.details["tasks"].values():
        features = [one["feature"] for one in task["chosen"]["features"]]
        task["methods"] = {"steered, by effect": {"features": features, "dose_response": task["dose_response"]}}
    result.save(path)
    steered = Pages(made, pages.rows, pages.strips)
    path.write_bytes(content)
    doses = [dose for place in range(len(steered.rows)) for dose in steered.concept(place).doses]
    assert {dose.by for dose in doses} == {"chosen by name", "AR&D, by effect"}


def test_neighbours_are_other_concepts_with_pages(pages):
    files = {f"3-{row['feature']}.html" for row in pages.rows}
    for place in range(len(pages.rows)):
        concept = pages.concept(place)
        kinds = [how.partition(":")[0] for how, _ in concept.near]
        assert kinds == (["by direction", "by clips", "by name"] if concept.name else ["by direction", "by clips"])
        for how, links in concept.near:
            assert concept.page not in [link.page for link in links]
            assert {link.page for link in links} <= files
            numbers = [float(link.nearness.split()[0]) for link in links]
            assert numbers == sorted(numbers, reverse=True)
            assert all(link.nearness.endswith(" shared") == how.startswith("by clips") for link in links)


def test_m_stands_where_it_is_among_chance_and_the_live_features(tmp_path):
    cell = Run(tmp_path).cell(0, 8)
    assert chance_of(cell) is None
    m = torch.cat([torch.linspace(-2, 6, 400), torch.tensor([1000.0, torch.nan])]).double()
    by_chance = torch.cat([torch.zeros(400), torch.tensor([torch.nan, torch.nan])]).double()
    cell.save_tensors("selections", {"ard/m": m, "ard/m_by_chance": by_chance})
    drawn = chance_of(cell)
    assert drawn.num_live == 401
    assert drawn.at(-50.0) == 0
    assert drawn.at(1000.0) == WIDTH
    assert drawn.at(0.0) < drawn.at(2.0)
    assert [mark.label for mark in drawn.ticks] == sorted({mark.label for mark in drawn.ticks}, key=float)
    tops = [float(top) for top in re.findall(r"V([\d.]+)H", drawn.chance)]
    assert len(tops) == NUM_BINS
    assert tops[int(np.argmin(tops))] == 0
    assert sum(top < HEIGHT for top in tops) == 1  # all random lists are at 0


def test_chance_is_said_to_explain_m_or_not_only_where_it_was_asked():
    assert said_of({"q_value": 0.05}, 0.05).startswith("Chance does not explain it: q = 0.05, at most 0.05")
    assert said_of({"q_value": 0.06}, 0.05) == "Chance may explain it: q = 0.06, above 0.05."
    for row in ({}, {"q_value": None}, {"q_value": float("nan")}):
        assert said_of(row, 0.05) == "It was not compared with chance."
