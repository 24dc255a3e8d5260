"""The commands, what they say of themselves and of bad input, and the configurations that are shipped."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ard
from ard.cli import COMMANDS, WAITING, main, others_are_busy
from ard.presets import CONFIGS
from tests.refusals import refused

FIT = CONFIGS / "demo" / "fit.yaml"


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
