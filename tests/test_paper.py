"""The paper's preset from files to table: corpora in their own layouts, a Qwen2-Audio, a CLAP, and a served namer."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ard.cli import main
from ard.results import Result
from ard.run import Run
from ard.types import UserError
from tests.audio.test_audiobench import EMOTIONAL, FLAT, GENDERED, NESTED, make, save

pytestmark = pytest.mark.slow

CLASSES = ["Dog", "Rain", "Domestic_sounds_and_home_sounds"]


def write_sound(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng, time_s = np.random.default_rng(seed), np.arange(12000) / 16000
    sound = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 4000) * time_s) + 0.05 * rng.standard_normal(12000)
    soundfile.write(path, sound, 16000, subtype="PCM_16")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """WavCaps, IEMOCAP and FSD50K with ten, six and eight clips."""
    root = tmp_path_factory.mktemp("data")
    ids = [f"Y{i:010d}" for i in range(10)]
    for seed, name in enumerate(ids):
        write_sound(root / f"WavCaps/AudioSet_SL_flac/{name}.flac", seed)
    listed = root / "WavCaps/json_files/AudioSet_SL/as_final.json"
    listed.parent.mkdir(parents=True)
    rows = [{"id": f"{name}.wav", "caption": "A dog barks.", "audio": "wav_path", "duration": 10.0} for name in ids]
    listed.write_text(json.dumps({"num_captions_per_audio": 1, "data": rows}), encoding="utf-8")

    session, dialog = root / "IEMOCAP_full_release/Session1", "Ses01F_impro01"
    rated = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
    for turn, emotion in enumerate(["ang", "neu", "hap", "sad", "exc", "fru"]):
        name = f"{dialog}_F{turn:03d}"
        write_sound(session / f"sentences/wav/{dialog}/{name}.wav", 20 + turn)
        rated.append(f"[{turn}.0000 - {turn + 1}.0000]\t{name}\t{emotion}\t[2.5000, 2.5000, 2.5000]\n")
    for folder, lines in (("EmoEvaluation", rated), ("transcriptions", [])):
        path = session / "dialog" / folder / f"{dialog}.txt"
        path.parent.mkdir(parents=True)
        path.write_text("".join(lines), encoding="utf-8")

    truth = root / "FSD50K/FSD50K.ground_truth"
    truth.mkdir(parents=True)
    with (truth / "vocabulary.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((i, label, f"/m/{i}") for i, label in enumerate(CLASSES))
    with (truth / "eval.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["fname", "labels", "mids"])
        for clip in range(8):
            write_sound(root / f"FSD50K/FSD50K.eval_audio/{clip}.wav", 40 + clip)
            table.writerow([clip, ",".join(CLASSES[: 1 + clip % 3]), "/m/0"])
    return root


@pytest.fixture(scope="module")
def arguments(root, tiny_audiollm, tiny_clap, tiny_roberta, tiny_chat, served):
    """What differs from the paper's setting: where the files are, and that everything is small."""
    facts = {
        "root": root,
        "model": tiny_audiollm,
        "captioner": tiny_audiollm,
        "clap": tiny_clap,
        "bertscore": tiny_roberta,
        "endpoint": served,
        "judge_endpoint": served,
        "judge": tiny_chat,
        "namer": tiny_chat,
        "d_in": 32,
        "k": 4,
        "layers": "[0,1,2]",
        "layer": 2,
        "expansion": 2,
        "expansions": "[1,2]",
        "num_selected": 6,
        "num_untrained": 0,
        "steps": 20,
        "num_workers": 0,
    }
    return [f"--run.{name}={value}" for name, value in facts.items()]


@pytest.fixture(scope="module")
def out(arguments, tmp_path_factory):
    """A run's folder, by the command of the README of experiments/table1."""
    out, here = tmp_path_factory.mktemp("paper"), Path(__file__).parent.parent
    given = [f"RUN={out}", f"FACTS={' '.join(arguments)}", f"BIN={Path(sys.executable).parent}"]
    command = ["make", "-o", ".venv/.installed", "table1", "PRESET=paper", *given]
    made = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=600, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    assert "Table 1. Evaluation of interpretability" in made.stdout
    assert "Table 4. Monosemanticity" not in made.stdout  # only the one that was asked for
    return out


def test_table_1_of_the_paper_is_made_from_the_corpora_on_disk(out):
    table = json.loads((out / "tables/table1.json").read_text(encoding="utf-8"))
    rows = [(row["method"], row["layer"]) for row in table["rows"]]
    baselines = ["Poly. Feats.", "Poly. Feats., half-waves", "Rand. Rep.", "Mean Act.", "Coverage"]
    assert rows[:5] == [(method, 2) for method in baselines]
    controls = ["AR&D, names shuffled", "Captions as names", "Labels as names"]
    assert rows[5:] == [*(("AR&D", layer) for layer in range(3)), *((control, 2) for control in controls)]
    assert all({"precision", "recall", "f1", "map"} <= set(row) for row in table["rows"])
    assert all("paper" in row for place, row in enumerate(table["rows"][:8]) if place != 1)
    result = Result.load(out / "layer-2/e2/matching.json")
    assert result.details["num_clips"] == 8
    assert result.details["num_labels"] == 3
    assert sorted(path.name for path in (out / "audio").iterdir()) == ["eval", "made", "probe"]
    names = Result.load(out / "layer-2/e2/naming.json")
    assert "tiny-chat" in str(names.choices)


def test_nothing_is_done_twice(out, arguments):
    def times():
        files = [path for path in (out / "layer-2").rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in files if path.name != "gain.json"}  # made with the tables

    before = times()
    main(["table", "1", "--preset", "paper", "--out", str(out), *arguments])
    assert times() == before


def test_table_4_goes_on_cell_by_cell(out, arguments):
    command = ["table", "4", "--preset", "paper", "--out", str(out), *arguments]
    main(command)
    table = json.loads((out / "tables/table4.json").read_text(encoding="utf-8"))
    assert [(row["method"], row["layer"], row["expansion"]) for row in table["rows"]] == [
        (method, layer, e)
        for method, e in (("Poly. Feats.", None), ("Poly. Feats., half-waves", None), ("AR&D", 1), ("AR&D", 2))
        for layer in (0, 1, 2)
    ]
    assert {"ms", "mean_ms", "above_chance"} <= set(table["rows"][0])
    done = {path: path.stat().st_mtime_ns for path in out.glob("layer-*/*/monosemanticity.json")}
    killed = Run(out).cell(1, 1)  # as if in this cell
    killed.stamp("ScoreMonosemanticity").unlink()
    killed.result_path("monosemanticity").unlink()
    shutil.rmtree(killed.sae)
    main(command)
    anew = {path for path, written in done.items() if path.stat().st_mtime_ns != written}
    assert anew == {killed.result_path("monosemanticity")}


def test_table_3_asks_audiobenchs_questions_and_a_served_judge(out, root, arguments, tmp_path, capsys):
    copied = shutil.copytree(root, tmp_path / "data")
    audiobench = copied / "AudioBench"
    save(make(FLAT, [*EMOTIONAL] * 4), "parquet", audiobench / "iemocap_emotion_recognition")
    save(make(NESTED, [*GENDERED] * 4), "dataset", audiobench / "voxceleb_gender_test")
    run = shutil.copytree(out, tmp_path / "run")
    extracted = {path: path.stat().st_mtime_ns for path in run.glob("activations*/**/*")}
    command = ["table", "3", "--preset", "paper", "--out", str(run), *arguments, f"--run.root={copied}"]
    command.append("--run.num_draws=2")
    with pytest.raises(SystemExit, match="2"):
        main(command)
    said = " ".join(capsys.readouterr().err.split())
    assert "was made, or begun, with other sounds" in said
    assert "--redo [audio] if they are the same sounds elsewhere" in said
    main([*command, "--redo", "[audio]"])  # the corpora lie elsewhere
    assert {path: path.stat().st_mtime_ns for path in run.glob("activations*/**/*")} == extracted  # of the same clips
    result = Result.load(run / "layer-2/e2/steering.json")
    methods = {"No SAE", "SAE, no clamp", "Rand. Feats.", "Rand. directions", "AR&D", "AR&D, by effect", "Reverse"}
    methods |= {"Difference of means", "Linear probe", "Audio minus silence", "Prompt"}
    assert {row.method for row in result.rows} == methods
    assert len({(row.source, row.target) for row in result.rows}) == 4
    assert result.details["num_verdicts"] > 0  # of a random model, of which hardly one can be read
    assert 0 < result.details["num_unreadable"] <= result.details["num_verdicts"]
    said = (run / "tables/table3.md").read_text(encoding="utf-8")
    assert "could not be read" in said or "unread" in said
    kept = (run / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["key"] for line in kept}) == len(kept)


def test_a_corpus_that_is_not_there_is_named(arguments, tmp_path, capsys):
    command = ["table", "1", "--preset", "paper", "--out", str(tmp_path / "run"), *arguments]
    with pytest.raises(SystemExit, match="2"):
        main([*command, f"--run.root={tmp_path / 'nowhere'}"])
    said = " ".join(capsys.readouterr().err.split())
    assert "split 'probe', which the preset has under `audio`, cannot be made: " in said
    assert "nowhere/WavCaps" in said


def test_table_3_says_which_clips_are_missing_before_anything_is_written(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["table", "3", "--preset", "paper", "--out", str(tmp_path / "run"), *arguments])
    said = " ".join(capsys.readouterr().err.split())
    assert "split 'iemocap-emotion', which the preset has under `audio`, cannot be made: " in said
    assert "AudioBench/iemocap_emotion_recognition" in said
    assert not (tmp_path / "run/audio").exists()


def test_a_label_outside_the_vocabulary_ends_it_before_anything_is_run(root, arguments, tmp_path, capsys):
    copied = shutil.copytree(root, tmp_path / "data")
    table = copied / "FSD50K/FSD50K.ground_truth/eval.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("Rain", "Reign"), encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main(["table", "1", "--preset", "paper", "--out", str(tmp_path / "run"), *arguments, f"--run.root={copied}"])
    assert "has the label 'Reign', which is not in" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run/activations").exists()


def test_readings_are_facts_of_the_run(out, arguments, tmp_path):
    copied = shutil.copytree(out, tmp_path / "run")
    reading = ["--run.matching.scope=distinct", "--run.matching.average_precision=references"]
    main(["table", "1", "--preset", "paper", "--out", str(copied), *arguments, *reading])
    said = (copied / "tables/table1.md").read_text(encoding="utf-8")
    assert "all distinct names at once against all labels" in said
    assert "mAP sums precision at the matches" in said


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ("matching.scop=clip", "is no reading ("),
        ("nosuch=3", "fact 'nosuch' is not in the preset's run.yaml, which has "),
    ],
)
def test_facts_that_do_not_exist_are_refused_before_anything_is_written(tmp_path, capsys, fact, said):
    with pytest.raises(SystemExit, match="2"):
        main(["table", "1", "--out", str(tmp_path / "run"), f"--run.{fact}"])
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_reading_that_does_not_exist_is_refused_before_anything_is_written(tmp_path):
    fact = "--run.matching.scope=nonsense"  # in a process whose types are not checked, as for users
    command = [sys.executable, "-m", "ard", "table", "1", "--out", str(tmp_path / "run"), fact]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    said = "reading scope 'nonsense' does not exist: choose one of ('clip', 'vocabulary', "
    assert said in " ".join(ended.stderr.split())
    assert not (tmp_path / "run").exists()


def test_an_unknown_source_is_named():
    from ard.audio import Corpora

    with pytest.raises(UserError, match="source 'wavecaps' does not exist: choose one of folder, wavcaps, iemocap"):
        Corpora([{"source": "wavecaps"}])
    with pytest.raises(
        UserError, match=r"source 'synthetic' cannot be opened with these arguments \(missing a required argument: 'spl"
    ):
        Corpora([{"source": "synthetic", "num_clips": 3}])
