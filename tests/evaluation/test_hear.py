"""Hearing and reading by the embedded model, with features that are planted to do one, the other, both or neither."""

import json

import numpy as np
import pytest
import soundfile
import torch

from ard.audio import SyntheticCorpus, read_clips, read_conflicts, write_audio_shards
from ard.audiollm import load_audiollm
from ard.evaluation import HearOrRead
from ard.evaluation.hear import first_difference, highest, neutral_audio, tokens_of_pairs
from ard.evaluation.hearing import CONDITIONS
from ard.evaluation.trials import contradicting_names
from ard.naming.answers import Answers
from ard.ranks import Ranks
from ard.run import Run
from ard.sae import TopKSAE, load_dictionary
from ard.types import Codes, UserError
from tests.audiollm.families.qwen import qwen3_asr
from tests.audiollm.families.whisper import whisper
from tests.stores import write_activations

LAYER, NAME, OTHER = 2, "cat meowing", "thunder"
HEARS, READS, DOES_BOTH, SILENT, CONSTANT, OF_OTHER = FEATURES = range(6)
NEUTRAL, OWN, CONTRADICTION = "This is a sound.", f"This is the sound of {NAME}.", f"This is the sound of {OTHER}."
WORD = " meowing"


def clips_of(label, num_clips):
    corpus = SyntheticCorpus("probe", num_clips=400)
    alone = [index for index in range(len(corpus)) if corpus.scene(index).labels == (label,)]
    return [corpus[index] for index in alone[:num_clips]]


@pytest.fixture(scope="module")
def clips():
    """Five clips of the name, the last of which naming has seen, and one of another."""
    return [*clips_of(NAME, 5), *clips_of(OTHER, 1)]


@pytest.fixture(scope="module")
def model():
    return load_audiollm()


def of_pairs(clips):
    """What is heard and written under every condition, pair by pair."""
    heard = []
    for number, clip in enumerate(clips):
        heard += [clip, neutral_audio(clip, 0, is_noise=bool(number % 2))] * 3
    return heard, [NEUTRAL, OWN, OWN, NEUTRAL, CONTRADICTION, CONTRADICTION] * len(clips)


@pytest.fixture(scope="module")
def dictionary(model, clips):
    """Features that regression finds: of a clip's tokens, of a word's, and of both; one silent, one constant."""
    prompts = model.prompter(*of_pairs(clips[:5]))
    x = torch.cat(model.capture(prompts, [LAYER], "all")[LAYER]).double()
    ids, audio = (tensor[prompts.valid] for tensor in (prompts.features["input_ids"], prompts.audio))
    row = torch.arange(len(prompts.valid)).repeat_interleave(prompts.valid.sum(dim=1))
    sounds = audio & torch.isin(row % len(CONDITIONS), torch.tensor([0, 2, 4]))
    word = ids == model.tokens([WORD])[0]
    wanted = torch.stack([sounds, word, sounds | word], dim=1).double()
    one = torch.ones(len(x), 1, dtype=torch.float64)
    weight = torch.where(word, 30.0, 1.0)[:, None].double()  # there are few
    found = torch.linalg.lstsq(torch.cat([x, one], dim=1) * weight, wanted * weight).solution.float()
    sae = TopKSAE(model.d_in, 2 * model.d_in, k=len(FEATURES))
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[:, :SILENT] = 2 * found[:-1]
        sae.b_enc[:] = -1
        sae.b_enc[:SILENT] = 2 * found[-1] - 1.2  # nothing below a regression of 0.6
        sae.b_enc[CONSTANT] = 1
    return sae


@pytest.fixture
def cell(tmp_path, clips, dictionary):
    """A cell whose features are named and scored; the last clip of the name is in H^k."""
    run = Run(tmp_path / "run")
    write_audio_shards(clips, run.audio("probe"))
    stored = [({"id": clip.id, "labels": list(clip.labels)}, torch.zeros(1, 128)) for clip in clips]
    write_activations(run.activations("probe"), stored, LAYER, "embedded")
    cell = run.cell(LAYER, 2)
    dictionary.save_pretrained(cell.sae)
    selection = {"features": torch.tensor(FEATURES), "m": torch.ones(6), "top_ids": torch.full((6, 1), 4)}
    cell.save_tensors("selections", {f"ard/0/{name}": tensor for name, tensor in selection.items()})
    cell.save_rows("names", ({"scorer": "ard", "draw": 0, "name": name} for name in [NAME] * 5 + [OTHER]))
    scores = {"rows": torch.tensor([0, 1, 2, 5]).int(), "features": torch.tensor([0, 0, 0, 5]).int()}
    scores["values"] = torch.tensor([1.0, 3, 2, 1])[:, None].expand(4, 2).contiguous()
    sizes = {"probe/num_clips": torch.tensor(len(clips)), "num_features": torch.tensor(256)}
    cell.save_tensors("scores", {**{f"probe/{name}": tensor for name, tensor in scores.items()}, **sizes})
    return cell


def rows_of(cell):
    return {row["feature"]: row for row in cell.rows("modality")}


def test_planted_features_hear_read_do_both_or_cannot_be_told(cell):
    result = HearOrRead(num_pairs=8)(cell)
    rows = rows_of(cell)
    assert {rows[feature]["num_pairs"] for feature in range(5)} == {4}  # not the clip in H^k
    assert {(rows[feature]["contradicts"], rows[feature]["clips_by"]) for feature in range(5)} == {(OTHER, "label")}
    assert [rows[HEARS][name] for name in ("hearing", "hearing_low", "hearing_high", "audio_wins")] == [1, 1, 1, 1]
    assert [rows[READS][name] for name in ("hearing", "hearing_low", "hearing_high", "audio_wins")] == [0, 0, 0, 0]
    assert 0.35 < rows[DOES_BOTH]["hearing_low"] <= rows[DOES_BOTH]["hearing"] <= rows[DOES_BOTH]["hearing_high"] < 0.65
    assert rows[DOES_BOTH]["hearing_shuffled"] == 1  # it reads no other words
    assert rows[CONSTANT]["audio"] == rows[CONSTANT]["neither"] == 1
    assert np.isnan([rows[feature]["hearing"] for feature in (SILENT, CONSTANT)]).all()
    own, shuffled = result.rows
    assert own.figures["hearing"].n == 3
    assert own.figures["hearing"].value == pytest.approx((1 + rows[DOES_BOTH]["hearing"]) / 3)
    hears = sum(rows[feature]["hearing_low"] > 0.5 for feature in (HEARS, DOES_BOTH))
    assert (own.figures["share_hearing"].value, own.figures["share_reading"].value) == (hears / 3, 1 / 3)
    assert shuffled.method == "AR&D, names shuffled"
    assert result.details == {
        "num_concepts": 6,
        "num_without_clips": 0,
        "num_neither": 3,
        "num_clips_by": {"label": 6, "activity": 0, "table": 0},
    }


def test_activities_are_the_highest_of_prompts_that_are_asked_one_by_one(cell, model, dictionary):
    HearOrRead(num_pairs=8, prompts_per_batch=7)(cell)
    found = rows_of(cell)[DOES_BOTH]
    highest_of = []
    for clip, text in zip(*of_pairs(list(read_clips(cell.run.audio("probe")))[:4]), strict=True):
        prompts = model.prompter([clip], [text])
        x = model.capture(prompts, [LAYER], "all")[LAYER][0][int(prompts.audio[0].int().argmax()) :]
        codes = dictionary.requires_grad_(False).encode(x.float())
        highest_of.append(float(torch.where(codes.indices == DOES_BOTH, codes.values, 0).max()))
    expected = np.array(highest_of).reshape(4, -1).mean(axis=0)
    assert [found[name] for name in CONDITIONS] == pytest.approx(expected, abs=1e-4)


def test_without_labels_clips_are_the_most_active_and_silent_features_have_none(cell):
    cell.save_rows("names", ({"scorer": "ard", "draw": 0, "name": name} for name in ["a purr"] * 5 + [OTHER]))
    result = HearOrRead(num_pairs=2)(cell)
    rows = rows_of(cell)
    assert (rows[HEARS]["clips_by"], rows[HEARS]["num_pairs"], rows[HEARS]["hearing"]) == ("activity", 2, 1)
    assert set(rows) == {HEARS, OF_OTHER}
    assert result.details["num_without_clips"] == 4


def test_what_was_measured_before_a_kill_is_not_measured_again(cell, monkeypatch):
    whole = HearOrRead(num_pairs=2)(cell)
    keep, asked = Answers.keep, []

    def dies(self, key, answer):
        keep(self, key, answer)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Answers, "keep", dies)
        with pytest.raises(KeyboardInterrupt):
            HearOrRead(num_pairs=2)(cell)
    assert cell.path("modality").with_suffix(".jsonl").is_file()
    measure = HearOrRead._activity
    monkeypatch.setattr(HearOrRead, "_activity", lambda *args: (asked.append(args[3]), measure(*args))[1])
    again = HearOrRead(num_pairs=2)(cell)
    assert [trial.features for trial in asked] == [(OF_OTHER,)]
    assert again.rows == whole.rows
    assert not cell.path("modality").with_suffix(".jsonl").exists()


def test_ranks_that_read_at_different_times_leave_no_pair_out(cell):
    cell.save_rows("names", ({"scorer": "ard", "draw": 0, "name": name} for name in [NAME] * 4 + ["a purr", OTHER]))
    alone = HearOrRead(num_pairs=2)(cell)

    class InTurn(Ranks):
        """The second rank begins when the first one has finished."""

        def together(self, work, *task):
            second = HearOrRead(num_pairs=2)
            second.ranks = Ranks(1, 2)
            return [work(*task), second.helper(cell)(*task)]

    first = HearOrRead(num_pairs=2)
    first.ranks = InTurn(0, 2)
    assert first(cell).rows == alone.rows


def test_a_table_of_pairs_is_measured_for_every_feature(cell, tmp_path, clips):
    for clip in clips[:3]:
        soundfile.write(tmp_path / f"{clip.id}.wav", clip.waveform, clip.sample_rate_hz)
    lines = [{"audio_path": f"{clip.id}.wav", "ref_text": OWN, "conflict_text": CONTRADICTION} for clip in clips[:3]]
    table = tmp_path / "stimuli.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    result = HearOrRead(pairs=table, pairs_audio=tmp_path)(cell)
    rows = rows_of(cell)
    assert [(row["clips_by"], row["num_pairs"], row["contradicts"]) for row in rows.values()] == [
        ("table", 3, None)
    ] * 6
    assert (rows[HEARS]["hearing"], rows[READS]["hearing"], rows[READS]["audio_wins"]) == (1, 0, 0)
    assert result.choices["words"] == "the table's"
    assert len(read_conflicts(table, tmp_path)) == 3


def test_concepts_are_drawn_by_seed_and_baselines_and_layers_that_do_not_read_are_left_out(cell, tmp_path):
    drawn = [set(HearOrRead(num_concepts=2, seed=seed)._names(cell)) for seed in range(8)]
    assert {len(features) for features in drawn} == {2}
    assert len(set(map(frozenset, drawn))) > 1
    assert HearOrRead()(cell, load_dictionary("poly", 128)) is None
    whisper(tmp_path)
    cell.save_rows("modality", [{"feature": HEARS}])
    assert HearOrRead(model=str(tmp_path))(cell) is None
    assert not cell.path("modality").exists(), "it was of another model"
    assert HearOrRead.lacks({"model": str(tmp_path)}) == "a model that reads words"
    assert HearOrRead.lacks({"model": "embedded", "clap": None}) == "a CLAP model that reads texts"
    assert HearOrRead.lacks({}) is None
    with pytest.raises(UserError, match=r"template 'a sound' has no place for a name: write \{\} where it goes"):
        HearOrRead(template="a sound")


def test_the_nearest_rate_contradicts_among_names_that_are_not_alike():
    rates = {"dog": 10.0, "puppy": 9.0, "rain": 4.0, "wind": 20.0}
    alike = torch.eye(4, dtype=torch.bool)
    alike[0, 1] = alike[1, 0] = True
    found = contradicting_names(rates, alike, seed=0)
    assert found == {"dog": "rain", "puppy": "rain", "rain": "puppy", "wind": "dog"}
    assert contradicting_names(rates, torch.ones(4, 4, dtype=torch.bool), 0) == dict.fromkeys(rates)
    tied = {contradicting_names(dict.fromkeys("abcd", 1.0), torch.eye(4) > 0, seed)["a"] for seed in range(20)}
    assert tied == {"b", "c", "d"}


def test_neutral_audio_is_silent_or_as_loud_as_the_clip(clips):
    silence, noise = (neutral_audio(clips[0], 0, is_noise=is_noise) for is_noise in (False, True))
    assert not silence.waveform.any()
    assert len(noise.waveform) == len(clips[0].waveform)
    assert noise.waveform.std() == pytest.approx(float(np.sqrt(np.mean(clips[0].waveform ** 2))), rel=0.05)
    assert not np.array_equal(noise.waveform, neutral_audio(clips[1], 0, is_noise=True).waveform)


def test_tokens_are_read_from_the_first_that_differs(tmp_path, clips, model):
    sound, words = torch.tensor([1, 1, 5, 5, 2]), torch.tensor([1, 1, 5, 5, 3, 2])
    assert first_difference([sound, words], sound == 5) == 2  # sound comes first
    assert (
        first_difference([torch.tensor([1, 7, 5, 2]), torch.tensor([1, 8, 8, 5, 2])], torch.tensor([0, 0, 1, 0]) > 0)
        == 1
    )
    qwen3_asr(tmp_path)  # which writes the words before the sound
    asr = load_audiollm(str(tmp_path))
    heard, texts = of_pairs(clips[:1])
    lengths = [len(x) for x in tokens_of_pairs(asr, 1, heard, texts)]
    prompts = asr.prompter(heard, texts)
    behind = prompts.audio.flip(1).int().argmax(dim=1)  # text tokens behind the sound
    num_audio = prompts.audio.sum(dim=1)
    assert all(length > audio + text for length, audio, text in zip(lengths, num_audio, behind, strict=True))


def test_the_highest_activation_of_each_prompt(dictionary):
    class Coder(TopKSAE):
        def encode(self, x, clamp=None):
            return Codes(x[:, :2], x[:, 2:].long())

    x = [torch.tensor([[1.0, 5, 0, 3], [2, 4, 3, 1]]), torch.tensor([[7.0, 1, 2, 0]]), torch.zeros(0, 4)]
    found = highest(Coder(4, 4, k=2), x, [3, 0])
    assert found.tolist() == [[5, 1], [0, 1], [0, 0]]


def test_without_names_there_is_nothing_to_measure(cell):
    cell.save_rows("names", ({"scorer": "ard", "draw": 0, "name": None} for _ in FEATURES))
    result = HearOrRead()(cell)
    assert result.details["num_concepts"] == result.rows[0].figures["hearing"].n == 0
    assert rows_of(cell) == {}
