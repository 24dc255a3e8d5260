"""`ard effects` on a tiny model and a random dictionary."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch

from ard.audio import read_clips, write_audio_shards
from ard.audiollm import load_audiollm
from ard.cli import main
from ard.run import Run
from ard.sae import TopKSAE
from ard.steering import ClassMatch
from ard.types import Clip
from tests.reports.conftest import write_about
from tests.steering.test_effects import plant

QUESTION = "happy or sad"


@pytest.fixture(scope="module")
def run(tiny_audiollm, tiny_clap, tmp_path_factory):
    """A run whose model says `happy` or `sad` to most clips, with names for three features."""
    out = tmp_path_factory.mktemp("run")
    model = plant(tiny_audiollm, heard=True)
    model.model.save_pretrained(out / "model")
    model.prompter.processor.save_pretrained(out / "model")
    about = {"model": str(out / "model"), "clap": tiny_clap, "layers": [1], "layer": 1, "expansion": 2}
    task = {"source": "sad", "target": "happy", "prompt": QUESTION, "concept": "a happy man"}
    write_about(out, **about, tasks=[{**task, "classes": {"sad": ["sad", "s"], "happy": ["happy", "h"]}}])
    rng = np.random.default_rng(0)
    clips = [
        Clip(f"c{i}", 10.0 ** (i % 2 - 2) * rng.standard_normal(8000 + 100 * i).astype(np.float32), 16000, "t")
        for i in range(8)
    ]
    write_audio_shards(clips, Run(out).audio("steer"))
    cell = Run.load(out).own
    TopKSAE(32, 64, k=4, generator=torch.Generator().manual_seed(0)).save_pretrained(cell.sae)
    maxima = torch.full((64,), 4.0)
    maxima[3] = 0
    cell.save_tensors("representatives", {"max_activation": maxima})
    selected = {"features": torch.arange(4), "m": torch.arange(4.0), "top_ids": torch.zeros(4, 4, dtype=torch.int64)}
    cell.save_tensors("selections", {f"ard/0/{key}": value for key, value in selected.items()})
    names = ["a dog", "a [b]man[/b]", "rain", "happy"]
    cell.save_rows("names", [{"scorer": "ard", "draw": 0, "feature": i, "name": name} for i, name in enumerate(names)])
    return out


def listed(run, capsys, *words):
    main(["effects", "--run", str(run), "--question", QUESTION, *map(str, words)])
    return capsys.readouterr().out


def rows(shown):
    """The features that are listed, and their effects."""
    found = re.findall(r"^ *(\d+) .* (?:hears|speaks|both|neither) +([+-]\d+\.\d+) ", shown, re.MULTILINE)
    return [(int(feature), float(effect)) for feature, effect in found]


def refused(run, capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        listed(run, capsys, *words)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ard: ")]
    return line


@pytest.fixture(scope="module")
def said(run):
    """The class that the model states most often, and the other one."""
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    clips = list(read_clips(Run(run).audio("steer")))
    answers = load_audiollm(facts["model"]).generate(clips, [QUESTION] * len(clips), 1)
    stated = ClassMatch(facts["tasks"][0]["classes"])(answers)
    assert set(stated) & {"happy", "sad"}
    most = max(("happy", "sad"), key=stated.count)
    return most, "sad" if most == "happy" else "happy"


def test_features_are_listed_by_what_they_do_to_the_answer(run, said, capsys):
    shown = listed(run, capsys, "--answers", ",".join(said), "--most", 3, "--max_new_tokens", 1)
    features, effects = zip(*rows(shown), strict=True)
    assert {0, 1, 2} <= set(features)
    assert 3 not in features  # which no clip makes active
    assert len(features) == len(set(features)) <= 6
    assert list(effects) == sorted(effects, reverse=True)
    assert f"log-odds of '{said[1]}' against '{said[0]}'" in " ".join(shown.split())


def test_features_may_be_given_and_sounds_be_a_folder(run, said, capsys, tmp_path):
    for number in range(4):
        wave = 10.0 ** (number % 2 - 2) * np.random.default_rng(number).standard_normal(9000)
        soundfile.write(tmp_path / f"{number}.wav", wave.clip(-1, 1), 16000)
    words = ["--features", "[7,1]", "--max_new_tokens", 1, "--audio", tmp_path]
    shown = listed(run, capsys, "--answers", ",".join(said), *words)
    assert sorted(feature for feature, _ in rows(shown)) == [1, 7]


def test_what_cannot_be_listed_is_refused(run, said, capsys, tmp_path):
    answers = ["--answers", ",".join(said), "--max_new_tokens", 1]
    assert "answers 'happy' are not two classes: give --answers FROM,TO" in refused(run, capsys, "--answers", "happy")
    assert "feature 64 does not exist" in refused(run, capsys, *answers, "--features", 64)
    assert "feature 3 has no maximum" in refused(run, capsys, *answers, "--features", "[1,3]")
    assert "holds no sound that can be read" in refused(run, capsys, *answers, "--audio", tmp_path)
    assert "most 0, most_clips 32" in refused(run, capsys, *answers, "--most", 0)
    nobody = refused(run, capsys, "--answers", "angry,bored", "--max_new_tokens", 1)
    assert "none of 8 clips is answered 'angry' (no class 8): give other --answers" in nobody
