import json
import math

import pytest

from ard.reports import headline
from ard.results import Figure, Result, Row
from ard.run import Run, write_parquet

FACTS = {
    "preset": "laptop", "seed": 0, "model": "openai/whisper-base", "data": "sounds", "layers": [3], "expansions": [8],
    "layer": 3, "expansion": 8, "p": 4, "num_selected": None, "clap": "none", "audio": {},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    return with_facts(tmp_path)


def with_facts(folder, **facts):
    (folder / "run.json").write_text(json.dumps({**FACTS, **facts}), encoding="utf-8")
    return Run.load(folder)


def save(cell, evaluation, figures, choices=None, **details):
    result = Result(evaluation, (Row(cell.method, 3, 8, figures),), choices or {}, details, 0, 1.0)
    result.save(cell.result_path(evaluation))


def scored(run, number):
    save(run.own, "monosemanticity", {}, {"false_discovery_rate": 0.05}, num_above_chance={"ard": number}, num_live=900)


def reconstructed(cell, fvu, tokens="eval"):
    save(cell, "reconstruction", {"fvu": Figure(fvu, math.nan, math.nan, 10, "share")}, {"tokens": tokens})


def test_a_run_that_has_measured_nothing_says_nothing(run):
    assert headline(run) == []


def test_how_many_concepts_are_above_chance_comes_first(run):
    scored(run, 171)
    assert headline(run) == ["171 of 900 live features are above chance (false-discovery rate 5%)."]
    scored(run, 0)
    (line,) = headline(run)
    assert line.startswith("None of 900 live features is above chance")
    assert line.endswith("the model may not know these sounds.")


def test_without_m_it_is_the_names_that_chance_does_not_explain(run):
    rows = [{"feature": i, "name": name, "selected": True, "made_from": "labels"} for i, name in enumerate(["a", None])]
    write_parquet(rows, run.own.path("concepts"))
    save(run.own, "naming", {})
    assert headline(run) == ["1 of 2 features have a name that chance does not explain (from labels)."]


@pytest.mark.parametrize("facts", [{"model": "embedded"}, {"clap": "embedded"}])
def test_embedded_models_on_sounds_that_are_not_simulated_are_warned_of(tmp_path, facts):
    assert "know simulated sounds alone" in headline(with_facts(tmp_path, **facts))[0]
    assert headline(with_facts(tmp_path, **facts, audio={"probe": [{"source": "synthetic"}]})) == []


def test_the_reconstruction_of_held_out_tokens_stands_beside_what_untrained_ones_reach(run):
    reconstructed(run.own, 0.12)
    assert headline(run) == ["FVU on held-out tokens is 0.12 (trained ones have mostly .02 to .3)."]
    control = run.cell(3, "e8-untrained-0")
    control.folder.mkdir(parents=True)
    reconstructed(control, 0.76)
    assert headline(run)[0].endswith("; 0.76 or more untrained).")
    reconstructed(run.own, 0.9)
    assert "may not belong together" in headline(run)[1]
