import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import ard
from ard.audiollm import load_audiollm
from ard.cli import COMMANDS, WAITING, main, others_are_busy
from ard.cli.run import choose_layer
from ard.presets import CONFIGS
from ard.results import Figure, Result, Row
from ard.run import Run
from ard.sae import TopKSAE
from ard.types import UserError
from tests.audiollm.families import encoders
from tests.reports.conftest import write_about, write_results


@pytest.fixture
def mine(sounds, tiny_audiollm, tiny_clap, tmp_path):
    """The arguments of `ard run` on a folder of sounds, and where its results go."""
    out = tmp_path / "out"
    args = ["run", "--audio", str(sounds), "--model", tiny_audiollm, "--clap", tiny_clap, "--out", str(out), "--k", "4"]
    return args, out


def refused(capsys, *args):
    """Run a command that must fail with exit code 2, and return its one line."""
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ard: ")
    return line


@pytest.mark.slow
def test_a_folder_of_sounds_gives_concepts_and_a_report(mine, capsys):
    args, out = mine
    main(args)
    said = capsys.readouterr()
    assert "5 left out" in said.err
    assert len(said.out.splitlines()) < 24
    assert "broken.mp3" in said.err
    failures = json.loads((out / "failures.json").read_text(encoding="utf-8"))["failures"]
    assert {f["id"] for f in failures} == {"silent.wav", "short.wav", "no samples.wav", "empty.wav", "broken.mp3"}

    clips = pq.read_table(out / "clips.parquet").to_pylist()
    assert "b/ünïcode naïve_flac" in [clip["id"] for clip in clips]
    assert [clip["num_tokens"] for clip in clips if clip["id"] == "long_wav#0000"] == [
        19
    ]  # 0.75 s: 75 mel frames, halved twice
    sae = TopKSAE.from_pretrained(out / "layer-3" / "e8" / "sae")
    assert (sae.d_in, sae.d_sae, sae.k) == (32, 256, 4)
    concepts = pq.read_table(out / "layer-3" / "e8" / "concepts.parquet").to_pylist()
    assert [concept["feature"] for concept in concepts] == list(range(256))
    assert all(len(concept["top_ids"]) == len(concept["bottom_ids"]) == 3 for concept in concepts)
    table = json.loads((out / "tables" / "table4.json").read_text(encoding="utf-8"))
    raw, untrained = {"Poly. Feats.", "Poly. Feats., half-waves"}, {"Untrained SAE", "Random tokens"}
    assert {row["method"] for row in table["rows"]} == {"AR&D", *raw, *untrained}
    gains = json.loads((out / "tables" / "gains.json").read_text(encoding="utf-8"))
    assert "monosemanticity/above_chance" in {row["figure"] for row in gains["rows"]}
    assert (out / "report" / "index.html").is_file()
    assert not list(out.rglob("*.partial"))
    assert list((out / "wandb").glob("offline-run-*"))

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")} | {
        path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")
    }
    main(args)  # nothing is done twice
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}

    shutil.rmtree(out / "layer-3")  # and what is missing is done again
    main(args)
    again = TopKSAE.from_pretrained(out / "layer-3" / "e8" / "sae")
    assert torch.equal(again.W_enc, sae.W_enc)

    shutil.rmtree(out / "report")
    main(["report", "--run", str(out)])
    assert (out / "report" / "index.html").is_file()
    other = [*args, "--k", "5"]
    said = refused(capsys, *other)
    assert "fit: layer 3, expansion 8 of " in said
    assert "model.k changed from 4 to 5; give --redo [fit] to do it again, or another --out" in said
    main([*other, "--redo", "[audio,fit]"])
    assert TopKSAE.from_pretrained(out / "layer-3" / "e8" / "sae").k == 5
    assert pq.read_table(out / "clips.parquet").to_pylist() == clips


@pytest.mark.slow
def test_a_run_among_the_sounds_goes_on_however_its_folder_is_called(
    sounds, tiny_audiollm, tiny_clap, monkeypatch, capsys
):
    for path in sounds.glob("*.*"):
        if path.name not in ("a dog.wav", "e.f.wav", "g.mp3", "long.wav"):
            path.unlink()  # seven clips are left, of which H^k has three
    monkeypatch.chdir(sounds)
    name = "50% ${HOME}x{expansion}\\${run.out} a=b,[c]'\"\n:#?~* é"
    args = ["run", "--audio", ".", "--model", tiny_audiollm, "--clap", tiny_clap, "--k", "4", "--out"]
    main([*args, name])
    out = sounds / name
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (run["p"], run["out"], run["cell"]) == (3, ".", "./layer-3/e8")
    assert load_file(out / "layer-3/e8/representatives.safetensors")["ard/top_ids"].shape == (256, 3)
    failures = json.loads((out / "failures.json").read_text(encoding="utf-8"))["failures"]
    assert failures == []  # the sounds were listed before there was the run's folder
    assert sorted(path.name for path in sounds.iterdir()) == sorted(
        ["a dog.wav", "b", "e.f.wav", "g.mp3", "long.wav", name]
    )

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".tar", ".yaml", ".ckpt")}
    (sounds / "a dog.wav").touch()
    (sounds.parent / "link").symlink_to(out)
    for same in (f"./{name}/", str(out), str(sounds.parent / "link")):
        main([*args, same])  # the same run, of which nothing is done twice
    assert {path: path.stat().st_mtime_ns for path in before} == before
    shutil.copy("e.f.wav", "a dog.wav")
    said = refused(capsys, *args, name)
    assert re.search(
        r"was made, or begun, with other sounds \(clips changed from .the sounds in .*\): give --redo "
        r"\[audio,extract,fit\] to make it anew with those that are there now",
        said,
        re.DOTALL,
    )


@pytest.mark.slow
def test_a_run_with_an_encoder_has_all_but_what_needs_answers(sounds, tiny_clap, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    encoders.ast(tmp_path / "model")
    out = tmp_path / "out"
    args = ["run", "--audio", str(sounds), "--model", str(tmp_path / "model"), "--clap", tiny_clap, "--out", str(out)]
    main([*args, "--layers_path", "layers", "--window", "clip", "--k", "4", "--expansion", "2"])
    shown = capsys.readouterr().err
    assert "names from a vocabulary: audioset" in shown  # an encoder has no captions
    assert shown.count("left out, since") == 1
    assert "HearOrRead: left out, since there is no model that reads words" in shown
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert [run[fact] for fact in ("layers", "layers_path", "window", "captioner")] == [[1], "layers", "clip", None]
    cell = out / "layer-1" / "e2"
    assert TopKSAE.from_pretrained(cell / "sae").metadata["model_name"] == f"{tmp_path / 'model'}, window clip"
    assert load_file(cell / "representatives.safetensors")["ard/top_ids"].shape == (32, 3)
    assert json.loads((cell / "monosemanticity.json").read_text(encoding="utf-8"))["rows"]
    clips = pq.read_table(out / "clips.parquet").to_pylist()
    assert [(clip["num_tokens"], clip["seconds_per_token"]) for clip in clips if clip["id"] == "a dog_wav"] == [
        (8 * 3, pytest.approx(0.1 / 3))
    ]
    assert "is an encoder, which cannot answer" in refused(
        capsys, "steer", "--run", out, "--audio", sounds / "a dog.wav", "--feature", 0, "--value", 1, "--prompt", "?"
    )


@pytest.mark.slow
def test_labels_name_concepts_and_test_them_on_clips_that_are_held_out(tiny_audiollm, tmp_path, capsys):
    rng, sounds, out = np.random.default_rng(0), tmp_path / "sounds", tmp_path / "out"
    sounds.mkdir()
    lines = ["file,labels"]
    for number in range(48):
        time_s, tonal = np.arange(8000) / 16000, number % 2
        wave = np.sin(2 * np.pi * 440 * time_s) if tonal else rng.standard_normal(8000).clip(-3, 3) / 3
        soundfile.write(sounds / f"{number}.wav", 0.5 * wave, 16000)
        lines.append(f"{number}.wav,{'Tone' if tonal else 'White_noise'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    events = "file,onset,offset,label\n" + "".join(f"{number},0.1,0.3,hit\n" for number in range(48))
    (tmp_path / "events.csv").write_text(events, encoding="utf-8")
    labels = ["--labels", str(tmp_path / "labels.csv"), "--namer", "labels", "--clap", "none"]
    labels += ["--events", str(tmp_path / "events.csv")]
    main(["run", "--audio", str(sounds), "--model", tiny_audiollm, *labels, "--steps", "20", "--out", str(out)])
    shown = capsys.readouterr()
    assert "48 sound files in 'sounds', " in shown.err
    assert "names from labels; tested against the labels of the held-out clips" in shown.err
    assert "DetectConcepts: left out, since there is no CLAP model that reads texts" in shown.err
    assert "a name that chance does not explain" in shown.out
    screen = shown.out.splitlines()
    assert "FVU on held-out tokens is " in " ".join(screen)
    assert len(screen) < 24
    assert screen[-2].startswith(f"tables    ard tables --run {out} ")
    clips = pq.read_table(out / "clips.parquet").to_pylist()
    assert 24 <= len(clips) < 48
    cell = out / "layer-3" / "e8"
    assert not (cell / "monosemanticity.json").exists()
    matching = json.loads((cell / "matching.json").read_text(encoding="utf-8"))
    assert matching["details"]["num_clips"] == 48 - len(clips)
    assert (matching["choices"]["similarity"], matching["choices"]["clap"]) == ("exact", None)
    timing = json.loads((cell / "timing.json").read_text(encoding="utf-8"))
    assert timing["details"]["per_label"]["hit"]["num_clips"] == 48 - len(clips)
    names = {concept["name"] for concept in pq.read_table(cell / "concepts.parquet").to_pylist()}
    assert names <= {None, "Tone", "White noise"}
    table = json.loads((out / "tables" / "table1.json").read_text(encoding="utf-8"))
    assert {"AR&D", "Untrained SAE", "Poly. Feats.", "Rand. Rep."} <= {row["method"] for row in table["rows"]}


def test_the_layer_is_in_the_middle_of_an_encoder_and_deep_in_a_decoder(tiny_audiollm, tmp_path):
    encoders.hubert(tmp_path)
    encoder, decoder = load_audiollm(str(tmp_path)), load_audiollm(tiny_audiollm)
    assert [choose_layer(encoder, *given) for given in ((None, None), (None, [2, 0]), (0, [2]))] == [1, 2, 0]
    assert [choose_layer(decoder, *given) for given in ((None, None), (1, None))] == [3, 1]
    with pytest.raises(UserError, match=r"layer 3 does not exist in .*: it has layers 0 to 2"):
        choose_layer(encoder, 1, [3])


FIT = CONFIGS / "demo" / "fit.yaml"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--audio": "{tmp_path}/nowhere"}, "does not exist: give a folder"),
        ({"--model": "{tiny_roberta}"}, "is neither an AudioLLM, which has an audio token, nor an encoder"),
        ({"--model": "{tmp_path}"}, "cannot be loaded"),
        ({"--layer": "9"}, "layer 9 does not exist"),
        ({"--out": "{tmp_path}/file/out"}, "cannot be written"),
        ({"--audio": "{tmp_path}/empty"}, "0 usable clips"),
        ({"--namer": "labels"}, "namer 'labels' needs the labels of clips: give --labels FILE.csv"),
        ({"--events": "{tmp_path}/none.tsv"}, "none.tsv' do not exist: give a table of events, or a folder of TextGr"),
        ({"--clap": "none"}, "names need a CLAP model that reads texts, or labels: give --clap, or --labels"),
        ({"--namer": "{tmp_path}/none.txt"}, "none.txt"),
        ({"--held_out": "1.5"}, "held_out 1.5 is out of range: give a share from 0 to below 1"),
        ({"--audio": "{tmp_path}/five"}, "/five' to train on, at least 6 are needed: see "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_cannot_be_ends_with_one_line_and_exit_code_2(mine, tmp_path, tiny_roberta, capsys, changes, said):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "five").mkdir()
    for number in range(5):
        shutil.copy(tmp_path / "my sounds/a dog.wav", tmp_path / f"five/{number}.wav")
    args, _ = mine
    given = dict(zip(args[1::2], args[2::2], strict=True)) | changes
    words = [word.format(tmp_path=tmp_path, tiny_roberta=tiny_roberta) for pair in given.items() for word in pair]
    assert said in refused(capsys, args[0], *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table", 5], "there are tables 1, 2, 3 and 4"),
        (["table", 1, "--preset", "none"], "preset 'none' does not exist: choose one of ['demo'"),
        (["report", "--run", "{tmp_path}"], "holds no run.json: give the --out folder"),
        (["shards"], "a source is missing: give one of folder, wavcaps"),
        (["shards", "--check", "{tmp_path}"], "holds no finished audio shards"),
        (
            ["shards", "iemocap", "--root", "{tmp_path}/nowhere", "--out", "{tmp_path}/out"],
            "give the folder of IEMOCAP_full_release",
        ),
        (["fit", "--dry-run"], "--dry-run belongs to `ard extract`"),
        (["extract", "--config", FIT, "--dry-run"], "--dry-run needs the YAML file of an extraction"),
        (["plan", "--preset", "demo", "--gpu", "Abacus"], "GPU 'Abacus' is unknown"),
        (["fit", "--config", "none.yaml"], "configuration 'none.yaml' does not exist"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_ends_with_one_line_and_exit_code_2(tmp_path, capsys, words, said):
    assert said in refused(capsys, *(str(word).replace("{tmp_path}", str(tmp_path)) for word in words))


def test_shards_of_a_folder_and_of_a_corpus_are_written_and_checked(sounds, tmp_path, capsys):
    main(["shards", "folder", "--root", str(sounds), "--out", str(tmp_path / "a")])
    corpus = tmp_path / "WavCaps" / "json_files" / "SoundBible"
    corpus.mkdir(parents=True)
    rows = [{"id": name, "caption": "Rain falls.", "duration": 1.0, "audio": "wav_path"} for name in ("7", "8")]
    (corpus / "sb_final.json").write_text(json.dumps({"num_captions_per_audio": 1, "data": rows}), encoding="utf-8")
    audio = tmp_path / "WavCaps" / "SoundBible_flac"
    audio.mkdir()
    shutil.copy(sounds / "b" / "ünïcode naïve.flac", audio / "7.flac")
    main(
        ["shards", "wavcaps", "--root", str(corpus.parents[1]), "--subset", "SoundBible", "--out", str(tmp_path / "b")]
    )
    assert "  8: missing" in capsys.readouterr().err
    main(["shards", "synthetic", "--split", "c", "--num_clips", "3", "--out", str(tmp_path / "c")])
    for name, num_clips in (("a", 6), ("b", 1), ("c", 3)):
        assert json.loads((tmp_path / name / "manifest.json").read_text(encoding="utf-8"))["num_clips"] == num_clips
    main(["shards", "--check", str(tmp_path / "c")])
    assert capsys.readouterr().out == "synthetic: 3 clips\n"
    assert "b': 1; fix the source" in refused(capsys, "shards", "--check", tmp_path / "b")  # one clip of 1232


@pytest.mark.slow
def test_the_papers_extraction_can_be_looked_at_before_it_is_run(tiny_audiollm, sounds, tmp_path, capsys):
    audio = tmp_path / "audio" / "probe"
    main(["shards", "folder", "--root", str(sounds), "--out", str(audio)])
    capsys.readouterr()
    config = ["extract", "--config", str(CONFIGS / "paper" / "extract.yaml"), f"--run.out={tmp_path}", "--dry-run"]
    main([*config, f"--run.model={tiny_audiollm}", "--run.layers=[1,3]"])
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"model '.*': 60,032 parameters, width 32, layers \[1, 3\] of 4", said[0])
    assert said[1].endswith("audio/probe': 6 clips in 1 shards")
    assert said[2].endswith("activations': 0 shards done, 1 to do")
    assert said[3] == "first batch: 6 clips of 20 to 25 audio tokens"
    assert not (tmp_path / "activations").exists()
    asked = [*config, f"--run.model={tiny_audiollm}"]
    assert "layer 5 does not exist" in refused(capsys, *asked)  # the paper's layers, in a model of four


@pytest.mark.slow
def test_what_the_paper_will_cost_is_planned(capsys, tmp_path):
    main(["plan", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "118,356 probing clips, 28.2 M audio tokens, 231 GB of activations a layer" in said


@pytest.mark.slow
def test_other_models_machines_and_facts_are_planned_for(capsys, tmp_path):
    options = ["--preset", "laptop", "--out", str(tmp_path), "--cores", "3", "--disk_gb_s", "1"]
    main(["plan", *options, "--model", "embedded", "--clap", "embedded", "--run.expansions", "[2]"])
    said = capsys.readouterr().out
    assert "On one H100, 3 cores, a disk of 1 GB/s" in said
    assert "750 probing clips" in said
    assert re.search(r"SAE training +layer 4, e 2", said)
    assert "fact 'layerz' is not in the preset's run.yaml" in refused(capsys, "plan", "--run.layerz", "3")


@pytest.mark.parametrize("name", ["", "study", *COMMANDS])
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in COMMANDS if COMMANDS[name].function != "lightning:main"])
def test_the_list_of_commands_says_what_their_docstrings_say(name):
    module, _, function = COMMANDS[name].function.partition(":")
    documented = inspect.getdoc(getattr(import_module(f"ard.cli.{module}"), function))
    assert COMMANDS[name].summary == documented.partition("\n")[0]


def test_what_is_no_command_is_refused_with_those_that_are(capsys):
    for args, choices in (
        (["tabel"], "'table'"),
        (["study", "makes"], "'make'"),
        ([], "COMMAND"),
        (["study"], "COMMAND"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert stopped.value.code == 2
        assert choices in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"ard-audio {ard.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    sorted(set(CONFIGS.glob("*/*.yaml")) - set(CONFIGS.glob("*/run.yaml"))),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_shipped_configuration_is_read(path, capsys):
    command = {"extract": "predict", "fit": "fit"}.get(path.stem, "test")
    with pytest.raises(SystemExit) as stopped:
        main([command, "--config", str(path), "--print_config"])
    assert stopped.value.code == 0
    assert "class_path" in capsys.readouterr().out


def test_what_an_sae_loses_is_measured_alike_in_every_preset():
    said = {
        path.read_text(encoding="utf-8").replace(path.parent.name, "<preset>")
        for path in CONFIGS.glob("*/quality.yaml")
    }
    assert len(said) == 1


def test_a_fact_is_changed_on_the_command_line(capsys):
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                "--config",
                str(CONFIGS / "demo" / "fit.yaml"),
                "--run.layer=1",
                "--run.expansion",
                "16",
                "--print_config",
            ]
        )
    printed = capsys.readouterr().out
    assert re.search(r"^ *layer: 1$", printed, re.MULTILINE)
    assert re.search(r"^ *expansion: 16$", printed, re.MULTILINE)
    assert re.search(r"out: runs/demo/layer-1/e16/sae$", printed, re.MULTILINE)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP, which can be asked what it has read, is Linux's")
@pytest.mark.parametrize(
    ("busy", "own", "spins"),
    [
        (True, {}, WAITING["GOMP_SPINCOUNT"]),
        (True, {"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000"),
        (False, {}, "300000"),  # OpenMP's own
    ],
)
def test_threads_sleep_where_others_are_busy_unless_the_user_says_otherwise(busy, own, spins):
    environment = {name: value for name, value in os.environ.items() if name not in (*WAITING, "KMP_BLOCKTIME")}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", **own}
    report = f"from ard import cli; cli.others_are_busy = lambda: {busy}; cli.main(['report', '--run', 'nowhere'])"
    command = [sys.executable, "-c", report]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in shown


@pytest.mark.parametrize("others", [0, 64])
def test_other_programs_are_counted_without_this_one(monkeypatch, others):
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: f"0.1 0.2 0.3 {others + 1}/300 4711\n")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert others_are_busy() == (others >= 8)


@pytest.fixture
def few_runs(tmp_path):
    """A folder with runs that are not finished, each for another reason, and something else."""
    other = {"preset": "no such", "model": "a/b [c]"}
    for name, about in {"measured": {}, "group/other": other, "cut": {}}.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write_about(folder, **{"model": "embedded", "clap": "embedded", "goals": [4, "concepts"], **about})
    write_results(tmp_path / "runs/measured")
    scored = {"num_above_chance": {"ard": 554}, "num_live": 970}
    cell = Run(tmp_path / "runs/measured").own
    highest = Row("AR&D", 3, 8, {"ms": Figure(9.7, 9.7, 9.7, 40, "m")})
    Result("monosemanticity", (highest,), {}, scored).save(cell.result_path("monosemanticity"))
    f1 = {name: Figure(value, 0.03, 0.09, 40, "share") for name, value in (("trained", 0.5), ("untrained", 0.44))}
    gain = Row("matching/f1", 3, 8, {**f1, "gain": Figure(0.06, 0.03, 0.09, 40, "share")})
    Result("gain", (gain,), {"num_draws": 3}).save(cell.result_path("gain"))
    about = tmp_path / "runs/cut/run.json"
    about.write_text(about.read_text(encoding="utf-8")[:100], encoding="utf-8")
    (tmp_path / "runs/begun/audio/probe").mkdir(parents=True)
    (tmp_path / "runs/begun/audio/probe/.ard.lock").touch()
    (tmp_path / "runs/thesis").mkdir()
    return tmp_path / "runs"


def test_the_runs_of_a_folder_are_listed_with_what_is_unfinished_and_why(few_runs, capsys):
    before = {path: path.stat().st_mtime_ns for path in few_runs.rglob("*")}
    main(["runs", str(few_runs)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["run", "preset", "model", "seed", ">", "chance", "F1", "gain", "FVU", "size"],
        ["begun", *["–"] * 7, "0.0", "MB"],
        ["cut", *["–"] * 7, "0.0", "MB"],
        ["group/other", "no", "such", "b", "[c]", "3", *["–"] * 4, "0.0", "MB"],
        ["measured", "demo", "embedded", "3", "554/970", "0.50", "+0.06", "–", "0.1", "MB"],
    ]
    assert max(map(len, lines[:7])) <= 80
    begun, cut, other, measured = lines[lines.index("Not finished:") + 1 :]
    assert begun == "begun: it was stopped before there was more than sounds"
    assert re.fullmatch(r"cut: '.*/run.json' is damaged \(.*\): run `ard demo` or `ard run` again", cut)
    assert re.fullmatch(r"measured: audio: probe: not done yet \(and \d+ more\)", measured)
    assert other.startswith("group/other: preset 'no such' does not exist: choose one of ['demo'")
    assert before == {path: path.stat().st_mtime_ns for path in few_runs.rglob("*")}


def test_a_run_whose_results_are_damaged_is_listed_like_the_others(few_runs, capsys):
    (few_runs / "measured/layer-3/e8/gain.json").write_text('{"rows": 3}', encoding="utf-8")
    main(["runs", str(few_runs / "measured")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["measured", "demo", "embedded", "3"]
    assert re.fullmatch(r"measured: '.*/gain.json' is damaged \(.*\): delete it, and run what made it again", lines[-1])


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert "there is no run in " in refused(capsys, "runs", tmp_path / "nowhere")
    assert "there is no run in " in refused(capsys, "runs", tmp_path)


def test_tables_are_shown_from_the_files_of_a_run(few_runs, capsys):
    run = few_runs / "measured"

    def shown(*words):
        main(["tables", "--run", str(run), *words])
        return capsys.readouterr().out

    whole = shown()
    assert max(map(len, whole.splitlines())) <= 80
    titles = ["What training gives", *(f"Table {number}." for number in (1, 3, 4))]
    assert [title for title in titles if title in whole] == titles
    assert "Left out: this run has no" in whole  # of Table 2, for which there is no result
    assert "Paper: as printed" not in whole
    for number, title in zip("0134", titles, strict=True):
        assert [other for other in titles if other in shown(number)] == [title]
    assert "Paper: as printed in arXiv 2602.22253" in " ".join(shown("1", "--notes").split())
    assert "there is no table 5 to make" in refused(capsys, "tables", "--run", run, 5)
    assert "holds no run.json" in refused(capsys, "tables", "--run", few_runs / "thesis")
