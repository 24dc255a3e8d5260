"""`ard run` on sounds of one's own: concepts and a report, in one command, or one line that says why not."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from ard.audiollm import load_audiollm
from ard.cli import main
from ard.cli.run import choose_layer
from ard.sae import TopKSAE
from ard.types import UserError
from tests.audiollm.families import encoders
from tests.refusals import refused


@pytest.fixture
def mine(sounds, tiny_audiollm, tiny_clap, tmp_path):
    """The arguments of `ard run` on a folder of sounds, and where its results go."""
    out = tmp_path / "out"
    args = ["run", "--audio", str(sounds), "--model", tiny_audiollm, "--clap", tiny_clap, "--out", str(out), "--k", "4"]
    return args, out


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
