"""The cards of the embedded models say what the shipped weights do on the held-out split."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForMultimodalLM, AutoProcessor, ClapModel, Qwen2AudioForConditionalGeneration

from experiments.embedded.evaluate import NUM_CLIPS, evaluate_audiollm, evaluate_clap, heldout, named_events, share
from experiments.embedded.train_clap import info_nce

AUDIOLLM = Path(str(files("ard.audiollm"))) / "embedded"
CLAP = Path(str(files("ard.embedding"))) / "embedded"


@pytest.fixture(scope="module")
def clips():
    return heldout()


def card(folder):
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])["figures"]


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "evaluate"), [(AUDIOLLM, evaluate_audiollm), (CLAP, evaluate_clap)])
def test_a_card_says_what_is_measured(clips, folder, evaluate):
    told, measured = card(folder), evaluate(folder, clips)
    assert told.keys() == measured.keys()
    for name, figure in measured.items():
        assert told[name]["n"] == figure.n, name
        # One case may fall on the other side on another processor.
        assert told[name]["value"] == pytest.approx(figure.value, abs=1.5 / figure.n), name
        if figure.required is not None:
            assert figure.value >= figure.required, name


def test_the_split_is_large_and_apart_from_the_training_clips(clips):
    assert len(clips) == NUM_CLIPS >= 200
    assert all(clip.id.startswith("heldout-") for clip in clips)


def test_both_load_offline_by_their_auto_classes_and_are_small():
    assert isinstance(
        AutoModelForMultimodalLM.from_pretrained(AUDIOLLM, local_files_only=True), Qwen2AudioForConditionalGeneration
    )
    assert AutoProcessor.from_pretrained(AUDIOLLM, local_files_only=True).tokenizer.padding_side == "left"
    paths = [path for folder in (AUDIOLLM, CLAP) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in paths) < 20e6
    assert {path.suffix for path in paths} <= {".json", ".jinja", ".md", ".safetensors"}


def test_a_clip_within_the_window_has_one_vector(clips):
    processor = AutoProcessor.from_pretrained(CLAP, local_files_only=True)
    model = ClapModel.from_pretrained(CLAP, local_files_only=True).eval()
    inputs = [
        processor(text=["rain"], audio=[clips[0].waveform], sampling_rate=16_000, return_tensors="pt") for _ in range(2)
    ]
    first, second = (model(**given).audio_embeds for given in inputs)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_info_nce_against_the_sum_written_out():
    rng = np.random.default_rng(0)
    similarity, negative = rng.normal(size=(5, 5)), rng.random((5, 5)) < 0.6
    kept = negative | np.eye(5, dtype=bool)
    rows = [-np.log(np.exp(similarity[i, i]) / np.exp(similarity[i])[kept[i]].sum()) for i in range(5)]
    columns = [-np.log(np.exp(similarity[i, i]) / np.exp(similarity[:, i])[kept[:, i]].sum()) for i in range(5)]
    loss = info_nce(torch.tensor(similarity, dtype=torch.float32), torch.tensor(negative))
    assert loss.item() == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, abs=1e-5)


def test_captions_are_compared_as_sets():
    assert named_events("dog barking, rain and siren") == named_events("siren and dog barking, rain")
    assert named_events("rain") != named_events("rain and wind")
    assert share([True, False], 0.9) == (0.5, 2, 0.9)
