"""The tests of names on clips whose truth is planted, by the evaluator alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ard.audio import write_audio_shards
from ard.evaluation import CheckNames
from ard.evaluation.axes import AXES
from ard.evaluation.measured import Concepts, measure
from ard.evaluation.odd_one_out import draw_trials, read_number, right_by_embeddings
from ard.evaluation.truth import Clips, Truth, nearest, shared_words, truth_by_labels
from ard.naming import EndpointChat
from ard.probing import KeepScores
from ard.run import Run
from ard.types import Clip
from tests.chats import Server
from tests.stores import write_activations

WORDS = [f"sound {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
WIDTH = len(WORDS)  # coordinate k is how strongly word k is heard; the last two are heard in no clip
NUM_PLANTED = 20


class Space:
    """A CLAP whose texts are the axes, one a word."""

    name = "space"

    def text(self, texts):
        return torch.eye(WIDTH)[[WORDS.index(text) for text in texts]]


def extract(folder, strength, describe):
    heard = [x.expand(2, WIDTH).contiguous() for x in strength]
    write_activations(folder, [({"id": f"{folder.name}-{n}"} | describe(n), x) for n, x in enumerate(heard)])


def heard(num_clips, seed):
    """Strengths of clips in which some sounds are heard, each of them in about a tenth of the clips."""
    rng = torch.Generator().manual_seed(seed)
    strength = torch.rand(num_clips, WIDTH, generator=rng)
    strength[torch.rand(num_clips, WIDTH, generator=rng) > 0.1] = 0
    strength[:, -2:] = 0
    return strength


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Raw coordinates as features, each named for the sound that it is, except where a test renames them."""
    probe, unseen = heard(150, 0), heard(200, 1)
    run = Run(tmp_path)
    labels = [[WORDS[k] for k in np.flatnonzero(x)] for x in unseen.numpy()]
    extract(run.activations("probe"), probe, lambda n: {})
    tops = probe.argsort(dim=0, descending=True)[:4].T.contiguous()
    monkeypatch.setattr(CheckNames, "clap", lambda self: Space())
    monkeypatch.setattr(CheckNames, "embeddings", lambda self, cell, split: normalize(unseen + 1e-3, dim=1))

    def check(names, *, labelled=True, made=None, **settings):
        extract(run.activations("eval"), unseen, lambda n: {"labels": labels[n]} if labelled and labels[n] else {})
        if made is not None:
            extract(run.activations("made"), *made)
        cell = run.cell(0, None)
        cell.save_tensors("representatives", {"ard/top_scores": probe.gather(0, tops.T).T})
        features = torch.arange(len(names))
        selection = {"ard/0/features": features, "ard/0/m": torch.ones(len(names)), "ard/0/top_ids": tops[features]}
        cell.save_tensors("selections", selection)
        cell.save_rows("names", [{"scorer": "ard", "draw": 0, "name": name} for name in names])
        cell.save_rows("concepts", [{"feature": feature, "name": name} for feature, name in enumerate(names)])
        KeepScores()(cell)
        result = CheckNames(**settings)(cell)
        return result, cell.rows("axes") if result else []

    return SimpleNamespace(check=check, unseen=unseen, labels=labels, run=run)


def figures(result, method):
    return {name: of.value for name, of in next(row for row in result.rows if row.method == method).figures.items()}


def mixtures(stage, num_clips):
    """Return mixtures of every unseen clip with its neighbour: in each both are heard."""
    others = stage.unseen.roll(-1, 0)
    number = len(stage.unseen)
    return (stage.unseen + 0.5 * others)[:num_clips], lambda n: {
        "mixture": {
            "source": f"activations-eval-{n}",
            "background": f"activations-eval-{(n + 1) % number}",
            "level_db": 10.0,
        }
    }


def test_planted_features_have_every_axis_at_1_and_pass(stage):
    result, concepts = stage.check(WORDS[:NUM_PLANTED], made=mixtures(stage, 200))
    own, others = (figures(result, method) for method in ("Poly. Feats.", "Poly. Feats., names shuffled"))
    assert [own[axis] for axis in AXES] == [1, 1, 1, 1]
    assert own["average_precision"] == own["share_pass"] == own["score"] == 1
    assert others["responsiveness"] == pytest.approx(0.5, abs=0.02), "at chance"
    assert others["purity"] == pytest.approx(0.1, abs=0.02), "the share of clips in which a name is true"
    assert {row["passes"] for row in concepts} == {True}
    assert {row["truth"] for row in concepts} == {"labels"}
    assert not any(row["fails"] for row in concepts)
    assert result.details["num_pass"] == NUM_PLANTED
    assert result.choices["made"] == "mixtures at [10.0] dB"


def test_clap_alone_tells_what_labels_tell(stage):
    result, concepts = stage.check(WORDS[:NUM_PLANTED], labelled=False, made=mixtures(stage, 200))
    assert figures(result, "Poly. Feats.")["responsiveness"] > 0.85
    assert {row["truth"] for row in concepts} == {"CLAP"}
    assert result.details["num_pass"] > NUM_PLANTED / 2


def test_labels_alone_need_no_clap(stage):
    result, concepts = stage.check(WORDS[:NUM_PLANTED], clap=None, made=mixtures(stage, 200))
    assert [figures(result, "Poly. Feats.")[axis] for axis in AXES] == [1, 1, 1, 1]
    assert {row["odd_one_out"] for row in concepts} == {None}
    assert "shared words" in result.choices["hard_negatives"]


def test_what_clap_costs_stands_beside_labels_with_its_ceiling(stage):
    result, _ = stage.check(WORDS[:NUM_PLANTED])
    ceiling, by_clap = (figures(result, f"Poly. Feats., by CLAP{more}") for more in (", ceiling", ""))
    assert figures(result, "Poly. Feats., by labels")["responsiveness"] == 1
    assert ceiling["responsiveness"] == pytest.approx(by_clap["responsiveness"], abs=0.05), "the features are ideal"


def test_names_of_other_features_are_at_chance_and_fail_with_their_reasons(stage):
    wrong = WORDS[1:NUM_PLANTED] + WORDS[:1]
    result, concepts = stage.check(wrong, made=mixtures(stage, 200))
    own = figures(result, "Poly. Feats.")
    assert own["responsiveness"] == pytest.approx(0.5, abs=0.05)
    assert own["share_pass"] <= 0.05
    failing = next(row for row in concepts if len(row["fails"]) == len(AXES))
    assert [why.split(" ")[0] for why in failing["fails"]] == ["fires", "the", "fires", "hardly"]
    assert failing["score"] < 0.2


def test_a_name_that_is_true_nowhere_can_not_be_told(stage):
    result, concepts = stage.check([*WORDS[:NUM_PLANTED], None, None, "something else"], clap=None)
    assert [row["passes"] for row in concepts][-1] is None
    assert result.details["num_not_told"] == 1
    assert result.details["num_concepts"] == NUM_PLANTED + 3
    assert result.details["num_names"] == NUM_PLANTED + 1


def test_a_feature_that_is_silent_fails_if_its_name_is_true_somewhere(stage):
    stage.unseen[:, 0] = 0
    _, concepts = stage.check(WORDS[:NUM_PLANTED], made=mixtures(stage, 200))
    assert concepts[0]["passes"] is False
    assert concepts[0]["fails"] == ["its feature fires in no unseen clip"]


def test_without_made_clips_sensitivity_is_not_measured(stage):
    result, concepts = stage.check(WORDS[:NUM_PLANTED])
    assert np.isnan(figures(result, "Poly. Feats.")["sensitivity"])
    assert {row["passes"] for row in concepts} == {True}
    assert result.choices["made"] is None


def test_rendered_clips_are_made_for_what_they_hold(stage):
    rendered = heard(100, 2)
    labels = [[WORDS[k] for k in np.flatnonzero(x)] for x in rendered.numpy()]
    result, _ = stage.check(WORDS[:NUM_PLANTED], clap=None, made=(rendered, lambda n: {"labels": labels[n]}))
    assert figures(result, "Poly. Feats.")["sensitivity"] == 1
    assert result.choices["made"] == "rendered scenes"


@pytest.mark.parametrize("rate", [0.02, 0.5, 1.0])
def test_a_feature_that_fires_often_has_no_better_chance_than_one_that_fires_rarely(rate):
    rng, num_clips = np.random.default_rng(0), 2001
    fires, true, near = (rng.random((num_clips, 60)) < share for share in (rate, 0.1, 0.3))
    scores, columns = fires * rng.random(fires.shape), np.arange(60)
    truth = Truth("labels", true, near & ~true, true)
    concepts = Concepts(columns, WORDS, scores, scores > 0.9, fires)  # the weakest of H^k count for made clips alone
    spread = np.nanstd(measure(concepts, truth, columns, columns, 3).of_others, axis=(1, 2))
    assert spread[[0, 3]] == pytest.approx([1, 1], abs=0.1), "feature and name are independent"
    assert spread[[1, 2]] == pytest.approx([1, 1], abs=0.1) if rate < 1 else (spread[[1, 2]] < 0.2).all()


def test_without_an_evaluation_set_clips_that_any_row_was_named_by_are_left_out(stage):
    stage.check(WORDS[:NUM_PLANTED])
    cell = replace(stage.run.cell(0, None), evaluation=None)
    selections = cell.tensors("selections")
    by_ard = selections["ard/0/top_ids"]
    selections |= {f"mean/0/{name}": selections[f"ard/0/{name}"].clone() for name in ("features", "m")}
    cell.save_tensors("selections", selections | {"mean/0/top_ids": (by_ard + 1) % 150})
    representatives = cell.tensors("representatives")
    cell.save_tensors("representatives", representatives | {"mean/top_scores": representatives["ard/top_scores"] + 0})
    names = [{"scorer": scorer, "draw": 0, "name": name} for scorer in ("ard", "mean") for name in WORDS[:NUM_PLANTED]]
    cell.save_rows("names", names)
    result = CheckNames()(cell)
    seen = {*by_ard.flatten().tolist(), *((by_ard + 1) % 150).flatten().tolist()}
    assert result.details["num_clips"] == 150 - len(seen)


def test_without_names_there_is_nothing_to_test(stage):
    result, concepts = stage.check([None, None], made=mixtures(stage, 20))
    assert concepts == []
    assert figures(result, "Poly. Feats.")["share_pass"] != figures(result, "Poly. Feats.")["share_pass"], "NaN"


def test_without_labels_and_clap_there_is_nothing_to_test_names_by(stage):
    stage.check(WORDS[:NUM_PLANTED])
    assert stage.check(WORDS[:NUM_PLANTED], labelled=False, clap=None) == (None, [])
    assert not stage.run.cell(0, None).path("axes").exists(), "it would be read as if it were of these clips"


def test_a_mixture_was_made_for_what_its_background_lacks():
    clips = Clips(
        [{"id": "a", "labels": ["dog", "rain"]}, {"id": "b", "labels": ["rain"]}],
        [{"id": "m", "mixture": {"source": "a", "background": "b", "level_db": 0.0}, "labels": ["dog", "rain"]}],
    )
    names = ["dog", "rain", "dog in the rain"]
    truth = truth_by_labels(names, clips, shared_words(names))
    assert truth.true.tolist() == [[True, True, True], [False, True, False]]
    assert truth.made.tolist() == [[True, False, True]]


def test_the_nearest_names_do_not_say_the_same_and_are_true_somewhere():
    true = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]], dtype=bool)
    alike = np.array([[1, 0.9, 0.2, 0.8, 0.85]] * 5)
    assert next(nearest(true, alike)) == [3, 2], "1 has the same clips, and 4 has none"


def test_the_odd_one_out_is_the_clip_that_is_least_like_the_others():
    embedded = normalize(torch.tensor([[1, 0.1]] * 4 + [[0.1, 1.0]] * 4), dim=1).numpy()
    scores, near = np.array([1.0, 1, 1, 1, 0, 0, 0, 0]), np.zeros(8, dtype=bool)
    trials = draw_trials(scores > 0, scores, near, 10, np.random.default_rng(0))
    assert right_by_embeddings(trials, embedded).all()
    assert {int(five[place]) for five, place in zip(trials.clips, trials.intruder, strict=True)} <= {4, 5, 6, 7}
    near[6] = True
    hard = draw_trials(scores > 0, scores, near, 10, np.random.default_rng(0))
    assert {int(five[place]) for five, place in zip(hard.clips, hard.intruder, strict=True)} == {6}
    assert draw_trials(scores > 1, scores, near, 10, np.random.default_rng(0)) is None


def write_tones(stage):
    """Give every unseen clip a sound."""
    tone = np.sin(np.arange(2400) / 5).astype(np.float32) / 2
    sounds = (Clip(f"activations-eval-{n}", tone, 8000, "tones") for n in range(len(stage.unseen)))
    write_audio_shards(sounds, stage.run.audio("eval"))


def test_a_listener_is_not_asked_about_a_clip_that_cannot_be_decoded(stage, tmp_path):
    write_tones(stage)
    for shard in stage.run.audio("eval").glob("*.tar"):
        first, *sounds = shard.read_bytes().split(b"fLaC")
        marks = [b"none", *[b"fLaC"] * 5]  # every sixth sound is none
        shard.write_bytes(first + b"".join(marks[number % 6] + sound for number, sound in enumerate(sounds)))
    server = Server(then="say:Odd one out: 2")
    chat = EndpointChat(server.base_url, "listener", cache=tmp_path / "heard.jsonl")
    result, concepts = stage.check(WORDS[:NUM_PLANTED], clap=None, listener=chat, num_heard=12)
    server.close()
    contents = [one["messages"][0]["content"] for one in server.asked]
    assert 0 < result.details["odd_one_out_heard"]["asked"] < 12
    assert result.details["odd_one_out_heard"]["asked"] == sum(row["odd_one_out_heard"] is not None for row in concepts)
    assert {len(parts) for parts in contents if isinstance(parts, list)} == {5 + 1}, "five sounds and the question"


def test_a_listener_hears_five_sounds_and_its_answers_are_kept(stage, tmp_path):
    write_tones(stage)
    server = Server(then="say:The others bark.\nOdd one out: 2")
    chat = EndpointChat(server.base_url, "listener", cache=tmp_path / "heard.jsonl")
    settings = {"clap": None, "listener": chat, "num_heard": 12}
    result, concepts = stage.check(WORDS[:NUM_PLANTED], **settings)
    heard = result.details["odd_one_out_heard"]
    assert (heard["asked"], heard["unreadable"], heard["model"]) == (12, 0, "listener")
    right = [row["odd_one_out_heard"] for row in concepts]
    assert heard["right"] == pytest.approx(right.count(True) / 12)
    assert 0 < right.count(True) < 12, "the intruder's place is drawn"
    parts = server.asked[-1]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["input_audio"] * 5 + ["text"]
    num_asked = len(server.asked)
    again, _ = stage.check(WORDS[:NUM_PLANTED], **settings)
    server.close()
    assert len(server.asked) == num_asked
    assert again.details == result.details


@pytest.mark.parametrize(
    ("reply", "place"), [("Odd one out: 3", 2), ("It barks.\n**Odd one out: (5)**", 4), ("3", None), ("", None)]
)
def test_a_listeners_answer_is_its_last_line(reply, place):
    assert read_number(reply) == place
