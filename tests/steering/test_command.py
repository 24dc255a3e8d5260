"""`ard effects` and `ard steer` on a tiny model and a random dictionary."""

import csv
import json
import re

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from ard.audio import StoredClips, read_clip, read_clips, write_audio_shards
from ard.audiollm import AudioLLM, load_audiollm
from ard.cli import main
from ard.run import Run
from ard.sae import TopKSAE
from ard.steering import ClassMatch, steer
from ard.steering.directions import Direction, read_direction, save_directions
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


def test_what_features_hear_is_left_open_where_no_clip_is_of_the_class(run, said, capsys):
    shown = listed(run, capsys, "--answers", f"{said[0][0]},zebra", "--features", 1, "--max_new_tokens", 1)
    (line,) = [line for line in shown.splitlines() if " neither " in line or " speaks " in line]
    assert re.search(r" – +\d\.\d+ +[+-]", line)  # before the output score
    assert "– where no clips of the two differ" in " ".join(shown.split())


def test_what_cannot_be_listed_is_refused(run, said, capsys, tmp_path):
    answers = ["--answers", ",".join(said), "--max_new_tokens", 1]
    assert "answers 'happy' are not two classes: give --answers FROM,TO" in refused(run, capsys, "--answers", "happy")
    assert "feature 64 does not exist" in refused(run, capsys, *answers, "--features", 64)
    assert "feature 3 has no maximum" in refused(run, capsys, *answers, "--features", "[1,3]")
    assert "holds no sound that can be read" in refused(run, capsys, *answers, "--audio", tmp_path)
    assert "most 0, most_clips 32" in refused(run, capsys, *answers, "--most", 0)
    nobody = refused(run, capsys, "--answers", "angry,bored", "--max_new_tokens", 1)
    assert "none of 8 clips is answered 'angry' (no class 8): give other --answers" in nobody


def steered(run, capsys, *words, audio):
    """What `ard steer` prints."""
    given = ["steer", "--run", run, "--audio", *audio, "--prompt", QUESTION, "--max_new_tokens", 2]
    main([str(word) for word in (*given, *words)])
    return capsys.readouterr().out.splitlines()


def not_steered(run, capsys, *words, audio):
    with pytest.raises(SystemExit) as stopped:
        steered(run, capsys, *words, audio=audio)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ard: ")]
    return line


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Three sounds and a file that is none."""
    folder = tmp_path_factory.mktemp("waves")
    for number in range(3):
        wave = 10.0 ** (number % 2 - 2) * np.random.default_rng(number).standard_normal(9000)
        soundfile.write(folder / f"{number}.wav", wave.clip(-1, 1), 16000)
    (folder / "broken.mp3").write_text("no sound", encoding="utf-8")
    return folder


def test_many_clips_and_doses_go_into_one_table(run, capsys, waves, tmp_path):
    words = ["--feature", "[5,6]", "--sweep", "[1,40]", "--csv", tmp_path / "a.csv"]
    shown = steered(run, capsys, *words, audio=[waves])
    assert shown[:2] == ["feature 5 (no name): 1, 40, maximum 4", "feature 6 (no name): 1, 40, maximum 4"]
    assert shown[2] == f"12 answers are in {tmp_path / 'a.csv'}"
    rows = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8")))
    settings = [("without", ""), ("with the SAE, nothing set", ""), *(("feature 5, feature 6", d) for d in ("1", "40"))]
    assert [(row["setting"], row["dose"]) for row in rows] == settings * 3
    assert [row["clip"] for row in rows] == [name for name in ("0_wav", "1_wav", "2_wav") for _ in range(4)]
    assert {row["prompt"] for row in rows} == {QUESTION}
    alone = steered(run, capsys, "--feature", "[5,6]", "--value", 40, audio=[waves / "1.wav"])
    assert alone[2:] == [
        f"{how}: {row['answer']}"
        for how, row in zip(["without", "with the SAE, nothing set", "with"], [*rows[4:6], rows[7]], strict=True)
    ]
    several = steered(run, capsys, *words[:4], "--keep_error", "true", audio=[waves / "1.wav", waves])
    heads = [line for line in several[2:] if not line.startswith(" ")]
    assert heads == [str(waves / "1.wav"), *(str(waves / f"{n}_wav") for n in range(3))]
    assert [line.split(":")[0] for line in several[3:6]] == ["  without", "  with 1", "  with 40"]


def test_a_table_that_was_stopped_goes_on_and_one_that_exists_is_kept(run, capsys, waves, tmp_path, monkeypatch):
    words = ["--feature", 5, "--sweep", "[1,40]", "--clips_per_batch", 1, "--csv"]
    steered(run, capsys, *words, tmp_path / "whole.csv", audio=[waves])
    asked, generate = [], AudioLLM.generate

    def stop(self, *args, **kwargs):
        asked.append(1)
        if len(asked) == 6:  # under the second of four settings of the second clip
            raise KeyboardInterrupt
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(AudioLLM, "generate", stop)
    with pytest.raises(SystemExit, match="130"):
        steered(run, capsys, *words, tmp_path / "a.csv", audio=[waves])
    assert not (tmp_path / "a.csv").exists()
    steered(run, capsys, *words, tmp_path / "a.csv", audio=[waves])
    assert len(asked) == 6 + 2 * 4
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "whole.csv"]
    assert "exists: give another file" in not_steered(run, capsys, *words, tmp_path / "a.csv", audio=[waves])


def test_one_clip_of_shards_is_taken_by_its_id(run, capsys):
    shards = Run(run).audio("steer")
    shown = steered(run, capsys, "--feature", 5, "--value", 40, "--clip", "c3", audio=[shards])
    clip = next(StoredClips(shards)(["c3"]))
    model = load_audiollm(json.loads((run / "run.json").read_text(encoding="utf-8"))["model"])
    assert shown[1] == f"without: {model.generate([clip], [QUESTION], 2)[0]}"
    assert len(shown) == 4
    words = ["--feature", 5, "--value", 40, "--clip"]
    assert "holds no clip 'c9' that can be used" in not_steered(run, capsys, *words, "c9", audio=[shards])
    two = not_steered(run, capsys, *words, "c3", audio=[shards, shards])
    assert "clip 'c3' is looked for in one folder of audio shards" in two


def test_a_dry_run_counts_the_answers_and_asks_for_none(run, capsys, waves, tmp_path, monkeypatch):
    monkeypatch.setattr("ard.cli.steer.load_audiollm", None)
    words = ["--feature", 5, "--sweep", "[1,2,4]", "--csv", tmp_path / "a.csv", "--dry-run"]
    two = [waves / "0.wav", waves / "1.wav"]
    assert steered(run, capsys, *words, audio=two) == ["10 answers: 5 to each of 2 clips, of which 3 are steered"]
    effects = ["--toward", "a happy man", "--by", "effect", "--value", 1, "--keep_error", "true", "--dry-run"]
    assert steered(run, capsys, *effects, audio=two) == ["4 answers: 2 to each of 2 clips, of which 1 are steered"]
    assert not list(tmp_path.iterdir())


def test_features_are_chosen_by_words(run, capsys, waves):
    shown = steered(run, capsys, "--toward", "rain", "--value", 2, "--keep_error", "true", audio=[waves / "0.wav"])
    assert shown[0] == "feature 2 (no name): 8, maximum 4"
    (line,) = [
        line
        for line in steered(
            run, capsys, "--toward", "rain", "--value", 2, "--unit", "absolute", audio=[waves / "0.wav"]
        )
        if "maximum" in line
    ]
    assert line == "feature 2 (no name): 2, maximum 4"


def test_features_are_chosen_by_what_they_do(run, said, capsys, waves):
    answers = ",".join(said)
    words = ["--answers", answers, "--max_new_tokens", 1]
    shown = listed(run, capsys, *words, "--concept", "a happy man", "--positions", "all")
    best = [feature for feature, effect in rows(shown) if effect > 0]
    words += ["--toward", "a happy man", "--by", "effect", "--sweep", "[1,2]"]
    shown = steered(run, capsys, *words, "--num_features", len(best), audio=[waves / "0.wav"])
    assert [line.split(" (")[0] for line in shown[: len(best)]] == [f"feature {feature}" for feature in best]
    assert shown[0].endswith(": 4, 8, maximum 4")
    assert f"that move the answer from {said[0]!r} towards {said[1]!r}: give fewer" in not_steered(
        run, capsys, *words, "--num_features", len(best) + 1, audio=[waves / "0.wav"]
    )


def test_a_direction_of_a_file_is_added(run, capsys, waves, tmp_path):
    cell, vector = Run.load(run).own, torch.nn.functional.normalize(torch.arange(32.0), dim=0)
    save_directions(cell, {"sad to happy/A": Direction(vector, 2.5), "sad to happy/B": Direction(-vector, 1.0)})
    file = cell.path("directions")
    torch.testing.assert_close(read_direction(f"{file}:sad to happy/A", 1), 2.5 * vector)
    words = ["--add", f"{file}:sad to happy/A", "--sweep", "[0,40]", "--csv", tmp_path / "a.csv"]
    assert steered(run, capsys, *words, audio=[waves / "1.wav"]) == [f"3 answers are in {tmp_path / 'a.csv'}"]
    found = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8")))
    assert [(row["setting"], row["dose"]) for row in found[1:]] == [(f"direction {words[1]}", d) for d in ("0", "40")]
    model, clip = load_audiollm(json.loads((run / "run.json").read_text(encoding="utf-8"))["model"]), waves / "1.wav"
    with steer(model, None, 1, add=100 * vector):
        (expected,) = model.generate([read_clip(clip)], [QUESTION], 2)
    assert (found[0]["answer"], found[2]["answer"]) == (found[1]["answer"], expected)
    save_file({"one": vector}, tmp_path / "one.safetensors")
    torch.testing.assert_close(read_direction(str(tmp_path / "one.safetensors"), 7), vector)


def test_what_cannot_be_steered_by_hand_is_refused(run, capsys, waves, tmp_path):
    one = [waves / "0.wav"]
    save_directions(Run.load(run).own, {"a": Direction(torch.ones(32), 1.0), "b": Direction(torch.ones(32), 1.0)})
    file = Run.load(run).own.path("directions")
    save_file({"a": torch.ones(3)}, tmp_path / "short.safetensors")
    save_file({"a": torch.ones(3, 32)}, tmp_path / "matrix.safetensors")
    save_file({"a": torch.ones(32)}, tmp_path / "other.safetensors", {"layer": "3"})
    torch.save(torch.ones(32), tmp_path / "pickle.pt")
    (tmp_path / "broken.safetensors").write_text("?", encoding="utf-8")
    refusals = {
        ("--feature", 5): "how strongly? Give either --value, or several as --sweep",
        ("--feature", 5, "--value", 1, "--sweep", "[1,2]"): "how strongly? Give either --value, or several as --sweep",
        ("--feature", 5, "--add", file, "--value", 1): "or words as --toward, or --add",
        ("--feature", 5, "--value", 1, "--answers", "a,b"): "answers 'a,b' are for --toward WORDS --by effect",
        ("--feature", 5, "--value", 1, "--csv", tmp_path / "no" / "a.csv"): "give a file in a folder that exists",
        ("--feature", 5, "--value", 1, "--clips_per_batch", 0): "give at least 1 token, 1 clip and 1 feature",
        ("--toward", "rain", "--value", 1, "--num_features", 5): "is more than the 4 features of layer 1, expansion 2",
        ("--toward", "rain", "--by", "effect", "--value", 1): "the run has no task towards 'rain', so it is not known",
        ("--toward", "a happy man", "--by", "effect", "--value", -1): "feature 0 cannot be set to -1.0",
        ("--toward", "a happy man", "--by", "effect", "--value", "[1,2]"): "2 values are given for 1 features",
        ("--add", file, "--value", 1): f"does not say which: give {file.name}:NAME with one of ['a', 'b']",
        ("--add", f"{file}:c", "--value", 1): f"has no 'c': give {file.name}:NAME with one of ['a', 'b']",
        ("--add", f"{file}:a", "--value", "[1,2]"): "2 values are given for one direction: give one (--sweep",
        ("--add", f"{file}:a", "--value", 1, "--unit", "max"): "unit 'max' is for features",
        ("--add", tmp_path / "short.safetensors", "--value", 1): "give a vector of 32 numbers",
        ("--add", tmp_path / "matrix.safetensors", "--value", 1): "has the shape [3, 32]",
        ("--add", tmp_path / "other.safetensors", "--value", 1): "is of layer 3, not 1: give --layer 3",
        ("--add", tmp_path / "pickle.pt", "--value", 1): "is no .safetensors file that exists",
        ("--add", tmp_path / "broken.safetensors", "--value", 1): "broken.safetensors' cannot be read",
    }
    for words, line in refusals.items():
        assert line in not_steered(run, capsys, *words, audio=one)
    nothing = ["--feature", 5, "--value", 1]
    (tmp_path / "empty").mkdir()
    assert "none of 0 sounds can be used" in not_steered(run, capsys, *nothing, audio=[tmp_path / "empty"])
    assert "broken.mp3' cannot be used" in not_steered(run, capsys, *nothing, audio=[waves / "broken.mp3"])
