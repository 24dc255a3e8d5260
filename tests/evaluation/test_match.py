import math

import numpy as np
import pytest
import torch

from ard.evaluation import MatchLabels, MatchReading, paired_difference
from ard.evaluation.activity import GRID
from ard.evaluation.match import METRICS, SameWords
from ard.evaluation.scores import Active, Labelled, active_concepts, predicted
from ard.naming import read_names
from ard.probing import SCORERS, SparseScores
from ard.results import Result
from ard.run import Run, write_parquet
from ard.types import UserError
from experiments.bench.matching import Size, Space, write_cell

LABELS = ["Wild_animals", "rain", "dog"]
NAMES = [f"{label.replace('_', ' ')} no. {i}" for i, label in enumerate(LABELS * 2)]
FEATURES = 24


@pytest.fixture
def cell(tmp_path):
    return Run(tmp_path).cell(26, 8)


def scored(labels=LABELS, num_clips=20, active=10, seed=0):
    """Clips in which some features are active; the first is silent."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(num_clips, FEATURES, generator=generator).topk(active, dim=1).indices
    values = torch.rand(num_clips, active, generator=generator)
    clips = torch.arange(num_clips, dtype=torch.int32).repeat_interleave(active)[active:]
    of_scorers = values.flatten()[active:, None].expand(-1, len(SCORERS)).contiguous()
    of_clips = [[labels[i % len(labels)], labels[0]] for i in range(num_clips)]
    return Labelled(SparseScores(clips, features.flatten()[active:].int(), of_scorers, num_clips, FEATURES), of_clips)


def matched(cell, names=NAMES, labelled=None, probing=None, **options):
    """Match the names of a cell that is drawn at random; return the result, and its figures by method."""
    write_cell(cell, Size(FEATURES, 12, 2), names)
    space = Space([label.replace("_", " ") for label in LABELS])
    result = MatchLabels(**options).match(cell, labelled or scored(), space, probing)
    return result, {row.method: {name: figure.value for name, figure in row.figures.items()} for row in result.rows}


def test_labels_as_names_are_the_ceiling_and_shuffled_names_the_null(cell):
    result, found = matched(cell, num_shuffles=3)
    ceiling = found["Labels as names"]
    assert (ceiling["precision"], ceiling["recall"], ceiling["f1"], ceiling["map_at_matches"]) == (1, 1, 1, 1)
    assert ceiling["map"] < 1  # precision over all ranks falls even where every match stands first
    shuffled = next(row for row in result.rows if "shuffled" in row.method)
    assert shuffled.note.startswith("mean of 3 draws; standard deviation over draws: precision ")


def test_concepts_without_names_predict_nothing_and_are_counted(cell):
    result, found = matched(cell, names=[None])
    for method, figures in found.items():
        if method != "Labels as names":
            assert {figures[name] for name in ("precision", "recall", "f1", "map", "map_at_matches")} == {0}
    details = result.details
    assert {q for q, *_ in details["curves"]["AR&D"]} == set(GRID)
    assert details["num_concepts_without_name"] == dict.fromkeys(("ard", "mean", "coverage", "random"), 12)
    assert details["num_clips_without_prediction"]["AR&D"] == 20


def test_clips_without_a_prediction_and_one_label_for_all_are_defined(cell):
    result, found = matched(cell, labelled=scored(labels=LABELS[:1]))
    assert all(math.isfinite(figure) for figures in found.values() for figure in figures.values())
    assert result.details["num_labels"] == 1
    assert result.details["num_clips_without_prediction"]["AR&D"] >= 1  # the silent one


@pytest.mark.slow
@pytest.mark.parametrize(
    "reading",
    [
        {"average": "macro"},
        {"assignment": "greedy"},
        {"threshold": "before"},
        {"strict": True, "gamma": 0.9},
        {"average_precision": "references"},
        {"average_precision": "matches"},
        {"average_precision": "pooled"},
        {"average_precision": "classes"},
    ],
)
def test_every_reading_gives_figures_with_intervals_and_is_written(cell, reading):
    result, _ = matched(cell, reading=MatchReading(**reading), result="other")
    assert result.evaluation == "other"
    assert reading.items() <= result.choices.items()
    for row in result.rows:
        for name in ("precision", "recall", "f1", "map"):
            assert 0 <= row.figures[name].low <= row.figures[name].value <= row.figures[name].high <= 1


@pytest.mark.parametrize("scope", ["vocabulary", "distinct"])
def test_one_matching_of_the_whole_vocabulary_has_no_interval(cell, scope):
    result, found = matched(cell, reading=MatchReading(scope=scope))
    named = result.rows[0]
    assert named.figures["f1"].n == 1
    assert math.isnan(named.figures["f1"].low)
    names = read_names(cell)["ard"][0]
    assert found["AR&D"]["precision"] <= len(LABELS) / len(names if scope == "vocabulary" else set(names))


def test_the_rules_of_activity():
    scores, weakest = scored().scores, torch.full((FEATURES,), 0.5)
    features = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(2))[:9]
    dense = scores.dense("mean", features)

    def active(activity, by):
        found = torch.zeros_like(dense, dtype=torch.bool)
        entries = active_concepts(scores, "mean", features, weakest[:9], activity, by)
        found[tuple(torch.from_numpy(x) for x in entries)] = True
        return found

    assert torch.equal(active(0.0, "share"), dense > 0)
    assert torch.equal(active(0.5, "share"), (dense > 0) & (dense >= 0.25))
    assert torch.equal(active(0.8, "quantile"), (dense > 0) & (dense > dense.quantile(0.8, dim=0)))
    every = scored(num_clips=400, active=FEATURES).scores
    always = active_concepts(every, "mean", features, weakest[:9], 0.95, "quantile")
    assert np.bincount(always.concepts).tolist() == [20] * 9
    assert torch.equal(active(2.0, "top").sum(dim=1), (dense > 0).sum(dim=1).clamp_max(2))
    assert (dense.masked_fill(~active(1.0, "top"), 0).amax(dim=1) == dense.amax(dim=1)).all()
    with pytest.raises(UserError, match=r"activity 0.5 has no use with 'chosen', which chooses it: give another"):
        MatchLabels(activity=0.5)
    for activity, by, said in ((-0.1, "share", " to 1"), (1.5, "quantile", " to 1"), (-1.0, "top", "")):
        with pytest.raises(
            UserError, match=rf"activity {activity} is out of range for '{by}': give a number from 0{said}$"
        ):
            MatchLabels(activity=activity, active_by=by)


def figures_of(result):
    return {row.method: {name: f for name, f in row.figures.items() if name != "ms"} for row in result.rows}


@pytest.mark.parametrize("with_labels", [True, False])
def test_nothing_changes_when_scores_are_replaced_by_a_monotone_transform(cell, with_labels):
    def rooted(labelled):
        old = labelled.scores
        values = old.values.sqrt()
        return labelled._replace(scores=SparseScores(old.clips, old.features, values, old.num_clips, old.num_features))

    clips, probing = scored(num_clips=60), scored(num_clips=80, seed=1) if with_labels else None
    plain, _ = matched(cell, labelled=clips, probing=probing)
    other, _ = matched(cell, labelled=rooted(clips), probing=probing and rooted(probing))
    assert figures_of(plain) == figures_of(other)
    assert plain.details == other.details
    by_share, _ = matched(cell, labelled=clips, activity=0.5, active_by="share")
    changed, _ = matched(cell, labelled=rooted(clips), activity=0.5, active_by="share")
    assert figures_of(by_share) != figures_of(changed)


def test_every_row_has_the_quantile_that_is_best_on_the_probing_clips(cell):
    clips, probing = scored(num_clips=60), scored(num_clips=80, seed=1)
    on_probing, _ = matched(cell, labelled=probing, probing=probing)  # so that the curves are those that choose
    result, _ = matched(cell, labelled=clips, probing=probing)
    assert result.choices["chosen_on"].startswith("labelled probing clips")
    assert set(result.details["curves"]) == {"AR&D", "Mean Act.", "Coverage", "Rand. Rep."}
    for method, points in on_probing.details["curves"].items():
        best = max(points, key=lambda point: point[3])
        assert result.details["quantiles"][method] == best[0]
    chosen = {row.method: row.figures for row in result.rows}
    for method, points in result.details["curves"].items():
        at = next(point for point in points if point[0] == result.details["quantiles"][method])
        assert [chosen[method][name].value for name in ("precision", "recall", "f1")] == pytest.approx(at[1:])


def test_where_few_probing_clips_have_labels_the_number_of_predictions_chooses(cell):
    clips, few = scored(num_clips=60), scored(num_clips=80, seed=1)._replace(share=0.4)
    for wanted in (0.5, 1.5):
        result, _ = matched(cell, labelled=clips, probing=few, names_per_clip=wanted)
        unlabelled, _ = matched(cell, labelled=clips, names_per_clip=wanted)
        assert result.details == unlabelled.details
        assert result.choices["chosen_on"].endswith(f"nearest to {wanted} distinct names a clip")
    assert matched(cell, labelled=clips, names_per_clip=99.0)[0].details["quantiles"]["AR&D"] == 0
    _, strict = matched(cell, labelled=clips, names_per_clip=0.0)
    assert strict["AR&D"]["recall"] == 0


def test_the_resamples_of_every_row_are_kept_for_rows_of_other_cells(cell):
    result, _ = matched(cell, num_shuffles=3)
    kept = cell.tensors("resamples")
    assert {method: tuple(values.shape) for method, values in kept.items()} == {
        **dict.fromkeys(("AR&D", "Mean Act.", "Coverage", "Labels as names"), (1, 1001, 5)),
        "Rand. Rep.": (2, 1001, 5),
        "AR&D, names shuffled": (3, 1001, 5),
    }
    rows = {row.method: row.figures for row in result.rows}
    for method, values in kept.items():
        assert [rows[method][name].value for name in METRICS] == pytest.approx(values[:, 0].mean(dim=0).tolist())
    differences = result.details["differences"]
    assert list(differences["AR&D"]) == [method for method in rows if method != "AR&D"]
    for index, name in enumerate(METRICS):
        one, other = (kept[method][..., index].numpy() for method in ("AR&D", "Rand. Rep."))
        figure, p = paired_difference(one, other, n=20)
        assert differences["AR&D"]["Rand. Rep."][name] == {
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
            "p": p,
        }
    matched(cell, result="other", num_shuffles=4)
    assert len(cell.tensors("resamples")["AR&D, names shuffled"]) == 3
    assert rows["Rand. Rep."]["f1"].over == "clips and draws"
    assert rows["AR&D"]["f1"].over == "clips"


def test_the_active_concepts_are_those_of_the_cells_own_row(cell):
    clips = scored(num_clips=60)
    result, _ = matched(cell, labelled=clips, activity=0.5, active_by="share")
    active = cell.tensors("active")
    chosen = cell.tensors("selections")["ard/0/features"]
    dense, weakest = clips.scores.dense("ard", chosen), cell.tensors("representatives")["ard/top_scores"][chosen, -1]
    expected = ((dense > 0) & (dense >= 0.5 * weakest)).nonzero()
    assert torch.equal(torch.stack([active["clips"], active["concepts"]], dim=1), expected)
    assert result.details["quantiles"] == dict.fromkeys(result.details["quantiles"])


def test_captions_as_names_are_a_ceiling_over_the_clips_that_were_captioned(cell):
    clips = scored(num_clips=6)._replace(clip_ids=[f"eval-{i}" for i in range(6)])
    naming = Result("naming", (), {"captioner": "m"}, {"evaluation_clips": ["eval-1", "eval-2", "eval-3"]})
    naming.save(cell.result_path("naming"))
    captions = {"eval-1": "The rain, and a dog.", "eval-2": "dog", "eval-5": "rain", "probe-0": "rain"}
    write_parquet(({"id": i, "caption": caption, "model": "m"} for i, caption in captions.items()), cell.run.captions)
    result, found = matched(cell, labelled=clips)
    row = result.rows[-1]
    assert row.method == "Captions as names"
    assert {figure.n for figure in row.figures.values()} == {3}
    assert {figure.better for figure in row.figures.values()} == {"neither"}
    # rain of rain and wild animals, dog of dog and wild animals, and nothing of wild animals; one dog is not there
    assert found["Captions as names"]["precision"] == pytest.approx(2 / 3)
    assert found["Captions as names"]["recall"] == pytest.approx(2 / 5)
    assert "Captions as names" not in result.details["differences"]["AR&D"]


def test_groups_of_clips_are_resampled_whole(cell):
    clips = scored(num_clips=40)
    alone, _ = matched(cell, labelled=clips)
    grouped, _ = matched(cell, labelled=clips._replace(groups=[str(i // 10) for i in range(40)]))
    one, other = alone.rows[0].figures["f1"], grouped.rows[0].figures["f1"]
    assert (one.n, one.over, other.n, other.over) == (40, "clips", 4, "groups of clips")
    assert one.value == other.value


def test_labels_compared_as_words_match_whatever_their_case_and_nothing_else(cell):
    names = ["Dog", "dogs", "wild animals", None, "RAIN", "a dog"]
    write_cell(cell, Size(FEATURES, 12, 2), names)
    labelled = scored()
    result = MatchLabels(clap=None, similarity="exact").match(cell, labelled, same_words(labelled))
    assert result.choices["similarity"] == "exact"
    assert result.choices["clap"] is None
    own = next(row for row in result.rows if row.method == cell.method)
    assert 0 < own.figures["recall"].value <= 1
    strangers = [name if name in (None, "dogs", "a dog") else None for name in names]
    write_cell(cell, Size(FEATURES, 12, 2), strangers)
    result = MatchLabels(clap=None, similarity="exact").match(cell, labelled, same_words(labelled))
    own = next(row for row in result.rows if row.method == cell.method)
    assert own.figures["recall"].value == own.figures["f1"].value == 0


def same_words(labelled):
    return SameWords(label.replace("_", " ") for label in labelled.vocabulary)


def test_a_name_that_joins_phrases_is_several_predictions():
    words = np.array([[0, 1], [1, -1], [-1, -1]])
    active = Active(np.array([0, 0, 1]), np.array([0, 1, 2]))
    assert [of_clip.tolist() for of_clip in predicted(active, words, 3)] == [[0, 1], [], []]


def test_what_compares_texts_is_left_out_without_a_clap_model_unless_words_are_compared():
    assert MatchLabels.lacks({"clap": None}) == "a CLAP model that reads texts"
    assert MatchLabels.lacks({"clap": None, "similarity": "exact"}) is None
    assert MatchLabels.lacks({}) is None
