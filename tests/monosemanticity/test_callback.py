"""ScoreMonosemanticity on a tiny run: its figures, its details and its files."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from ard.activations import ActivationDataModule
from ard.monosemanticity import Reading, ScoreMonosemanticity, callback, read_selections, score_lists
from ard.monosemanticity.functional import list_moments, share_curve
from ard.probing import Encoding, Evaluator
from ard.representatives import RetrieveRepresentatives
from ard.run import Run
from ard.types import UserError
from tests.monosemanticity.worlds import sparse_scores, unit
from tests.stores import write_activations

CLIPS, FEATURES = 60, 24
OF_SHARES = (
    "above_chance",
    "halves_agreement",
    "coherence",
    "mean_ms_live",
    "median_ms_live",
    "mean_ms_top_share",
)
ALMOST = ("mean_ms_random_lowest", "mean_ms_random_lowest_top_share")  # drawn for each feature anew


def make_cell(folder, scores, monkeypatch, embeddings):
    """Make the run of clips of one token whose coordinates are the scores."""
    run = Run(folder)
    clips = [({"id": str(i), "labels": []}, x[None].float()) for i, x in enumerate(scores)]
    write_activations(run.activations("probe"), clips)
    monkeypatch.setattr(Evaluator, "embeddings", lambda self, cell, split, ranks=None: embeddings)
    return run.cell(0, None)


@pytest.fixture
def world():
    generator = torch.Generator().manual_seed(0)
    scores = sparse_scores(CLIPS, FEATURES, generator)
    scores[:, 3] = 0
    embeddings = unit(CLIPS, 8, generator=generator)
    for feature in range(4, 9):  # some are of a concept
        clips = scores[:, feature].topk(5).indices
        embeddings[clips] = torch.nn.functional.normalize(embeddings[clips[:1]] + 0.3 * embeddings[clips], dim=1)
    return SimpleNamespace(scores=scores, embeddings=embeddings)


def measure(cell, num_selected=6, **options):
    RetrieveRepresentatives(**options)(cell)
    return ScoreMonosemanticity(num_selected=num_selected, num_null_draws=2000)(cell)


def test_figures_and_details_are_those_of_the_files(world, tmp_path, monkeypatch):
    cell = make_cell(tmp_path, world.scores, monkeypatch, world.embeddings)
    result = measure(cell)
    figures, details = result.rows[0].figures, result.details
    stored, kept = load_file(cell.path("representatives")), load_file(cell.path("selections"))
    live = stored["n_active"] > 0
    m = score_lists(world.embeddings, stored["ard/top_ids"], stored["ard/bottom_ids"])
    torch.testing.assert_close(kept["ard/m"], m.masked_fill(~live, math.nan), equal_nan=True)
    ranked = m[live].sort(descending=True).values
    num_live = int(live.sum())

    value = {name: figure.value for name, figure in figures.items()}
    assert value["ms"] == pytest.approx(float(ranked[0]))
    assert value["mean_ms"] == pytest.approx(float(ranked[:6].mean()))
    assert value["mean_ms_live"] == pytest.approx(float(ranked.mean()))
    assert value["median_ms_live"] == pytest.approx(float(ranked.quantile(0.5)))
    whole = int(0.2 * num_live)
    part = 0.2 * num_live - whole
    top_fifth = float(ranked[:whole].sum() + part * ranked[whole]) / (0.2 * num_live)
    assert value["mean_ms_top_share"] == pytest.approx(top_fifth)
    coherence = list_moments(world.embeddings, stored["ard/top_ids"]).mean
    assert value["coherence"] == pytest.approx(float(coherence[live].mean()))
    both = ~(kept["half0/m"].isnan() | kept["half1/m"].isnan())
    agreement = spearmanr(kept["half0/m"][both], kept["half1/m"][both]).statistic
    assert value["halves_agreement"] == pytest.approx(agreement)
    assert figures["halves_agreement"].n == both.sum() < num_live

    for name, figure in figures.items():
        assert figure.over == "concepts"
        assert math.isnan(figure.low) == (name == "ms")
        assert figure.n == {"ms": 6, "mean_ms": 6, "above_chance_other_half": 6}.get(name, figure.n)
    for name in (*OF_SHARES, *ALMOST):
        assert figures[name].n == (num_live if name != "halves_agreement" else both.sum())
    passed = int((kept["ard/q_value"] <= 0.05).sum())
    assert figures["above_chance"].value == passed / num_live
    assert details["num_above_chance"]["ard"] == passed >= 3
    assert (details["num_live"], details["num_dead"], details["num_features"]) == (num_live, FEATURES - num_live, 24)
    on_other = int((kept["halves/q_value"] <= 0.05).sum())
    assert value["above_chance_other_half"] == on_other / 6
    assert (details["num_above_chance_other_half"], details["num_selected_on_half"]) == (on_other, 6)
    assert details["num_distinct_lowest"] == len(
        {tuple(sorted(row)) for row in stored["ard/bottom_ids"][live].tolist()}
    )
    assert details["curve"] == share_curve(m[live].numpy())
    low, median, high = details["ms_over_orders"]
    assert low <= median <= high
    assert json.loads(json.dumps(details)) == details
    assert kept["halves/cosine"].abs().nan_to_num(0).max() <= 1
    assert torch.equal(kept["halves/cosine"].isnan(), ~both)


def test_a_dictionary_and_a_copy_of_it_have_no_higher_shares(world, tmp_path, monkeypatch):
    """A mean over a fixed C does rise, as with the width of any dictionary."""
    once = measure(make_cell(tmp_path / "once", world.scores, monkeypatch, world.embeddings))
    doubled = torch.cat([world.scores, world.scores], dim=1)
    twice = measure(make_cell(tmp_path / "twice", doubled, monkeypatch, world.embeddings))
    before, after = once.rows[0].figures, twice.rows[0].figures
    for name in OF_SHARES:
        assert after[name].value == pytest.approx(before[name].value), name
    for name in ALMOST:
        assert after[name].value == pytest.approx(before[name].value, rel=0.05), name
    assert once.details["curve"] == twice.details["curve"]
    assert once.details["num_distinct_lowest"] == twice.details["num_distinct_lowest"]
    assert once.details["ms_over_orders"] == pytest.approx(twice.details["ms_over_orders"])
    assert after["mean_ms"].value > before["mean_ms"].value


@pytest.mark.parametrize("ties", ["stable", "shared_random", "seeded_random", "preact"])
def test_the_order_of_the_clips_decides_where_ties_are_broken_by_it(world, ties, tmp_path, monkeypatch):
    low_median_high = measure(make_cell(tmp_path, world.scores, monkeypatch, world.embeddings), ties=ties).details[
        "ms_over_orders"
    ]
    assert len(low_median_high) == (0 if ties == "preact" else 3)
    assert ties == "preact" or low_median_high[0] < low_median_high[2]


def test_an_sae_has_the_p_values_of_every_scorer(world, tmp_path, monkeypatch):
    cell = make_cell(tmp_path, world.scores, monkeypatch, world.embeddings)
    own = cell.run.cell(0, 1)
    dictionary = Encoding(cell.folder, FEATURES).dictionaries[0]
    dictionary.is_baseline = False
    RetrieveRepresentatives()(own, dictionary)
    result = ScoreMonosemanticity(num_selected=6, num_draws=2, num_null_draws=500)(own, dictionary)
    kept = load_file(own.path("selections"))
    assert set(result.details["num_above_chance"]) == {"ard", "mean", "coverage"}
    for scorer, number in result.details["num_above_chance"].items():
        assert torch.equal(kept[f"{scorer}/p_value"].isnan(), kept[f"{scorer}/m"].isnan())
        assert int((kept[f"{scorer}/q_value"] <= 0.05).sum()) == number
    assert {name.split("/")[0] for name in kept if name.count("/") == 2} == {
        *result.details["num_above_chance"],
        "random",
    }


def test_without_halves_their_figures_are_undefined(world, tmp_path, monkeypatch):
    cell = make_cell(tmp_path, world.scores[:7], monkeypatch, world.embeddings[:7])
    figures = measure(cell).rows[0].figures
    for name in ("above_chance_other_half", "halves_agreement"):
        assert (math.isnan(figures[name].value), figures[name].n) == (True, 0)
    assert not math.isnan(figures["above_chance"].value)
    assert not any(name.startswith("hal") for name in load_file(cell.path("selections")))


def test_halves_that_rank_nothing_do_not_agree(world, tmp_path, monkeypatch):
    same = torch.ones(CLIPS, 8).double()
    figures = measure(make_cell(tmp_path, world.scores, monkeypatch, same)).rows[0].figures
    assert figures["halves_agreement"].value == 0


def test_other_readings_are_scored_too(world, tmp_path, monkeypatch):
    cell = make_cell(tmp_path, world.scores, monkeypatch, world.embeddings)
    RetrieveRepresentatives()(cell)
    reading = Reading(pairs="ordered", skip_identical=True, sigma="trace", ddof=1)
    result = ScoreMonosemanticity(num_selected=6, num_null_draws=500, reading=reading)(cell)
    assert 0 < result.rows[0].figures["above_chance"].value <= 1


def test_old_lists_too_short_for_a_score_are_refused_unless_they_are_retrieved_anew(world, tmp_path, monkeypatch):
    cell = make_cell(tmp_path, world.scores, monkeypatch, world.embeddings)
    cell.folder.mkdir(parents=True)
    save_file({"ard/top_ids": torch.zeros(FEATURES, 2).long()}, cell.path("representatives"))
    monkeypatch.setattr(ScoreMonosemanticity, "start", lambda *_: pytest.fail("the pass began"))
    said = r"^the lists in '.*poly' are of 2 clips, which have no spread .* again with p 3 or more$"
    with pytest.raises(UserError, match=said):
        ScoreMonosemanticity()(cell)
    monkeypatch.undo()
    monkeypatch.setattr(Evaluator, "embeddings", lambda self, cell, split, ranks=None: world.embeddings)
    score = ScoreMonosemanticity(num_selected=6, num_null_draws=100)
    trainer = Trainer(
        callbacks=[RetrieveRepresentatives(3), score],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    data = ActivationDataModule(cell.run.activations("probe"), layer=0, clips_per_batch=7)
    trainer.test(Encoding(cell.folder, FEATURES), datamodule=data, verbose=False)
    assert load_file(cell.path("representatives"))["ard/top_ids"].shape[1] == 3
    assert cell.result("monosemanticity") is not None


def test_without_clap_every_feature_active_in_p_clips_is_selected_and_there_is_no_m(world, tmp_path, monkeypatch):
    cell = make_cell(tmp_path, world.scores, monkeypatch, None)
    RetrieveRepresentatives(p=4)(cell)
    assert ScoreMonosemanticity(clap=None, num_selected=None)(cell) is None
    often = (world.scores > 0).sum(dim=0)
    (selection,) = read_selections(cell)["ard"]
    assert set(selection.features.tolist()) == set((often >= 4).nonzero().flatten().tolist())
    assert often[selection.features].diff().max() <= 0
    assert selection.m.isnan().all()


def test_c_is_the_number_above_chance_but_not_below_the_least(world, tmp_path, monkeypatch):
    cell = make_cell(tmp_path, world.scores, monkeypatch, world.embeddings)
    monkeypatch.setattr(callback, "LEAST_SELECTED", 2)
    result = measure(cell, num_selected=None, p=4)
    above = result.details["num_above_chance"]["ard"]
    assert above > 2
    assert len(read_selections(cell)["ard"][0].features) == above
