"""The page's examples, run as they stand, from a folder of one's own and outside the package."""

import csv
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import wandb
import yaml
from lightning import Callback
from safetensors.torch import load_file

from ard.audio import Corpora, SyntheticCorpus, read_clips
from ard.audiollm.families import FAMILIES
from ard.classes import import_class
from ard.cli import main
from ard.presets import CONFIGS
from ard.probing import Evaluator
from ard.reports import build_tables, paper
from ard.results import Result
from ard.run import Run
from ard.sae import Dictionary
from ard.stamps import read_stamp
from ard.types import UserError
from tests.test_chain import edit, written

pytestmark = pytest.mark.slow

PAGE = Path("docs/extending.md").read_text(encoding="utf-8")
OWN = {"evaluator": "label_sharing", "corpus": "esc50", "namer": "closest_caption", "family": "bird_audio"}


def block(marker):
    (text,) = re.findall(rf"<!-- {marker} -->\n```[a-z]*\n(.*?)```", PAGE, re.DOTALL)
    return text


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A folder from which the page's command can be given: the configurations, and a run of a few clips."""
    folder = tmp_path_factory.mktemp("beside")
    shutil.copytree(CONFIGS, folder / "configs")
    out = folder / "runs" / "demo"
    for split, activations in (("probe", "activations"), ("eval", "activations-eval")):
        main(["shards", "synthetic", "--split", split, "--num_clips", "8", "--out", str(out / "audio" / split)])
        facts = [
            f"--run.out={out}",
            "--run.layers=[3]",
            f"--run.split={split}",
            f"--run.activations={out / activations}",
        ]
        main(["extract", "--config", str(CONFIGS / "demo" / "extract.yaml"), *facts])
    return folder


@pytest.fixture
def beside(extracted, monkeypatch):
    """The folder, with the page's own module in it, seen as ``PYTHONPATH=.`` has it seen."""
    (extracted / "fixed_basis.py").write_text(block("dictionary"), encoding="utf-8")
    monkeypatch.chdir(extracted)
    monkeypatch.setattr(sys, "path", [str(extracted), *sys.path])
    yield extracted
    sys.modules.pop("fixed_basis", None)


def test_a_dictionary_of_ones_own_is_scored_and_steered_without_a_change_to_the_package(beside):
    path, command = block("commands").splitlines()
    assert path == "export PYTHONPATH=."
    main(shlex.split(command)[1:])
    cell = beside / "runs" / "demo" / "layer-3" / "fixed"
    (row,) = Result.load(cell / "monosemanticity.json").rows
    assert (row.method, row.layer, row.expansion) == ("Fixed basis", 3, 2)
    found = load_file(cell / "monosemanticity.safetensors")
    assert {"ard/m", "mean/m", "coverage/m", "random/0/m"} <= found.keys()  # it has the baselines that an SAE has
    clip = next(iter(SyntheticCorpus("docs", 1, speech_share=1.0)))
    soundfile.write("voice.wav", clip.waveform, clip.sample_rate_hz)
    said = {}
    exec(block("steering"), said)
    assert said["answers"] != said["model"].generate(said["clips"], [said["question"]])
    x = torch.randn(20, 128)
    torch.testing.assert_close(said["dictionary"](x), x)
    torch.testing.assert_close(said["dictionary"].directions(), said["dictionary"].basis)


def section(head):
    return PAGE.partition(f"\n## {head}\n")[2].partition("\n## ")[0]


def test_the_page_names_all_that_a_dictionary_has():
    own = {name for name in vars(Dictionary) if not name.startswith("_")} - {"forward"}
    assert own == set(re.findall(r"^\| `(\w+)", section("A dictionary of your own"), re.MULTILINE))


def test_the_page_names_all_that_an_evaluator_has():
    own = {name for name in vars(Evaluator) if not name.startswith("_") and not hasattr(Callback, name)}
    assert own == set(re.findall(r"`(\w+)(?:\([\w, ]*\))?`", section("An evaluator of your own"))) & own


def write_esc50(root):
    """Write a small set of sounds in ESC-50's layout: four in each of five folds, and one that is no sound."""
    rows = []
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    for place, clip in enumerate(SyntheticCorpus("esc50", 20, speech_share=0.0)):
        fold, category = place % 5 + 1, ("dog", "sea_waves")[place // 5 % 2]
        rows.append({"filename": f"{fold}-{place}-A-0.wav", "fold": fold, "category": category})
        soundfile.write(root / "audio" / rows[-1]["filename"], clip.waveform[:16000], clip.sample_rate_hz)
    rows.append({"filename": "1-99-A-0.wav", "fold": 1, "category": "dog"})
    (root / "audio" / "1-99-A-0.wav").write_bytes(b"this is no sound")
    with (root / "meta" / "esc50.csv").open("w", newline="", encoding="utf-8") as lines:
        table = csv.DictWriter(lines, ["filename", "fold", "category"])
        table.writeheader()
        table.writerows(rows)


@pytest.fixture(scope="module")
def lab(tiny_audiollm, tiny_clap, tmp_path_factory):
    """A folder of one's own: the page's modules, a preset that names them, and the run that its commands make."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(CONFIGS, folder / "configs")
    write_esc50(folder / "ESC-50")
    for marker, module in OWN.items():
        (folder / f"{module}.py").write_text(block(marker), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        wandb.teardown()  # its service writes into the folder that it was started in
        patch.setattr(sys, "path", [str(folder), *sys.path])
        subprocess.run(block("preset"), shell=True, check=True)
        with Path("mine/test.yaml").open("a", encoding="utf-8") as file:
            file.write(block("evaluator in test.yaml"))
        facts = {"model": tiny_audiollm, "clap": tiny_clap, "d_in": 32, "k": 4, "num_selected": 12}
        facts |= {"layer": 2, "layers": [2], "expansion": 2, "expansions": [2], "tasks": [], "num_untrained": 0}
        facts |= yaml.safe_load(block("corpus in run.yaml"))
        edit(Path("mine"), "run", lambda run: run.update(facts))
        edit(Path("mine"), "fit", lambda fit: fit["trainer"].update(max_steps=30, val_check_interval=30))
        edit(Path("mine"), "test", with_namer)
        path, command = block("table").splitlines()
        assert path == "export PYTHONPATH=."
        patch.setitem(paper.METRICS, *column("column"))
        main(shlex.split(command)[1:])
    yield folder
    for module in OWN.values():
        sys.modules.pop(module, None)


def with_namer(test):
    (namer,) = [c for c in test["trainer"]["callbacks"] if c["class_path"] == "ard.naming.NameConcepts"]
    namer["init_args"] |= yaml.safe_load(block("namer in test.yaml"))


def column(marker):
    """Return the entry that a line of the page adds to the columns."""
    columns = {}
    exec(block(marker), {"METRICS": columns})
    ((entry),) = columns.items()
    return entry


@pytest.fixture
def at_lab(lab, monkeypatch):
    monkeypatch.chdir(lab)
    monkeypatch.setattr(sys, "path", [str(lab), *sys.path])
    return lab


@pytest.fixture
def cell(at_lab):
    return Run(Path("runs/mine")).own


def test_an_evaluator_of_ones_own_is_run_by_the_chain_and_shown_in_its_column(cell, monkeypatch):
    rows = {row.method: row.figures["share"] for row in cell.result("label_sharing").rows}
    assert list(rows) == ["AR&D", "Coverage", "Mean Act.", "Rand. Rep."]
    assert rows["AR&D"].n == 12
    table = json.loads(Path("runs/mine/tables/table1.json").read_text(encoding="utf-8"))["rows"]
    shown = {row["method"]: row["label_sharing/share"]["value"] for row in table if "label_sharing/share" in row}
    assert {method: shown[method] for method in rows} == {method: figure.value for method, figure in rows.items()}
    assert "Poly. Feats." in shown  # from a cell of its own
    assert "| Label shared | paper |" in Path("runs/mine/tables/table1.md").read_text(encoding="utf-8")
    stamp = read_stamp(cell.stamp("LabelSharing"))
    assert stamp.settings == {"seed": 0}
    assert "selections" in stamp.needs
    assert (cell.result("label_sharing").seed, cell.result("label_sharing").choices) == (
        0,
        {"enough": 1.0, "trained_in": "32-true"},
    )
    monkeypatch.setitem(paper.METRICS, *column("column of matching.json"))
    (made,) = build_tables(Path("runs/mine"), [1])
    assert made.heads[-1] == "mAP at matches"
    assert all(line.cells[-1].ours is not None for line in made.lines)


def test_a_changed_setting_of_ones_own_evaluator_is_a_reason_to_run_it_alone_again(cell, capsys):
    shutil.copytree("runs/mine", "runs/changed", ignore=shutil.ignore_patterns("wandb"))
    before, yaml_file = written(Path("runs/changed")), Path("mine/test.yaml").read_text(encoding="utf-8")
    try:
        edit(Path("mine"), "test", lambda test: test["trainer"]["callbacks"][-1]["init_args"].update(enough=0.5))
        main([*shlex.split(block("table").splitlines()[1])[1:-1], "runs/changed"])
    finally:
        Path("mine/test.yaml").write_text(yaml_file, encoding="utf-8")
    shown = " ".join(capsys.readouterr().err.split())
    assert "LabelSharing: enough changed from nothing to 0.5" in shown
    after = written(Path("runs/changed"))
    anew = {path for path in after if path.startswith("layer-2/") and before.get(path) != after[path]}
    files = "stamps/LabelSharing.json", "label_sharing.json"
    assert anew == {f"layer-2/{one}/{file}" for one in ("e2", "poly", "half-waves") for file in files}


def test_an_evaluator_of_ones_own_runs_on_a_cell_that_is_there(cell, capsys, tmp_path):
    cell.result_path("label_sharing").unlink()
    logger = ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", str(tmp_path)]
    callbacks = yaml.safe_load(Path("mine/test.yaml").read_text(encoding="utf-8"))["trainer"]["callbacks"]
    shutil.copytree("mine", tmp_path / "alone")
    edit(tmp_path / "alone", "test", lambda test: test["trainer"].update(callbacks=callbacks[-1:]))
    edit(tmp_path / "alone", "run", lambda run: run.update(out=str(Path("runs/mine").absolute())))
    main(["test", "--config", str(tmp_path / "alone" / "test.yaml"), *logger])
    (logged,) = csv.DictReader(next(tmp_path.rglob("metrics.csv")).open(encoding="utf-8"))
    assert float(logged["label_sharing/share"]) == pytest.approx(
        cell.result("label_sharing").rows[0].figures["share"].value
    )
    exec(block("alone"), {})
    assert cell.result("label_sharing").choices == {"enough": 0.75}
    label = {clip.id: clip.labels for clip in read_clips(Path("runs/mine/audio/probe"))}
    tops = [[label[clip_id] for clip_id in row["top_ids"]] for row in cell.rows("concepts") if row["name"]]
    true = sum(max(map(top.count, top)) >= 3 for top in tops) / len(tops)
    assert 0 < true < 1
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(true)


def test_an_evaluator_of_ones_own_out_of_order_is_refused_in_one_line(at_lab, tmp_path, capsys):
    shutil.copytree("mine", tmp_path / "turned")
    edit(tmp_path / "turned", "test", lambda test: test["trainer"]["callbacks"].reverse())
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", str(tmp_path / "turned" / "test.yaml"), f"--run.out={at_lab / 'runs/mine'}"])
    assert stopped.value.code == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "ard: LabelSharing needs monosemanticity.safetensors, which ScoreMonosemanticity makes" in shown


def test_a_corpus_of_ones_own_is_a_source_of_a_preset_and_of_shards(at_lab, capsys):
    assert read_stamp(Run(Path("runs/mine")).stamp("audio-eval")).settings["clips"] == [
        {"source": "esc50.ESC50", "root": "ESC-50", "folds": [5]}
    ]
    failures = json.loads(Path("runs/mine/failures.json").read_text(encoding="utf-8"))["failures"]
    assert [failure["id"] for failure in failures] == ["1-99-A-0.wav"]
    main(shlex.split(block("shards"))[1:])
    by_command, by_chain = (list(read_clips(Path(f"runs/{run}"))) for run in ("esc50/eval", "mine/audio/eval"))
    assert [clip.id for clip in by_command] == [clip.id for clip in by_chain]
    assert {clip.labels for clip in by_command} == {("dog",), ("sea waves",)}
    assert {clip.dataset for clip in by_command} == {"ESC-50"}
    with pytest.raises(SystemExit) as stopped:
        main(["shards", "esc50.ESC50", "--help"])
    assert stopped.value.code == 0
    assert "which of the five" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("esc51.ESC50", "class_path 'esc51.ESC50' names no class \\(No module named 'esc51'\\): write it as"),
        ("esc50.ESC51", "class_path 'esc50.ESC51' names no class"),
        ("esc50.decode", "class_path 'esc50.decode' names no class but <function decode"),
        ("esc50.UserError", "source 'esc50.UserError' is no corpus: give its class an __iter__"),
        ("esc50", "source 'esc50' does not exist: choose one of folder, .*, or write a class of your own as"),
        (
            "esc50.ESC50",
            "source 'esc50.ESC50' cannot be opened with these arguments .*: see `ard shards esc50.ESC50 --help`",
        ),
    ],
)
def test_a_corpus_that_is_not_there_is_refused_in_one_line(at_lab, source, said):
    with pytest.raises(UserError, match=said):
        Corpora([{"source": source, "years": 3}])


def test_a_namer_of_ones_own_names_the_concepts(cell):
    assert cell.result("naming").choices["namer"] == "the caption closest to the clips"
    assert read_stamp(cell.stamp("NameConcepts")).settings["namer.class_path"] == "closest_caption.ClosestCaption"
    named = [row for row in cell.rows("concepts") if row["name"]]
    assert named
    assert all(row["name"] in row["captions"] for row in named)


def test_a_family_of_ones_own_is_loaded_and_asked(at_lab, tiny_audiollm):
    shutil.copytree(tiny_audiollm, "birds")
    soundfile.write("voice.wav", next(iter(SyntheticCorpus("birds", 1))).waveform[:12000], 16000)
    try:
        module = importlib.import_module("bird_audio")
        module.BirdAudio(module.BirdAudioConfig.from_pretrained(tiny_audiollm)).save_pretrained("birds")
        exec(block("hearing"), heard := {})
    finally:
        FAMILIES.pop("bird_audio", None)
    model = heard["model"]
    assert type(model.model).__name__ == "BirdAudio"
    prompts = model.prompter([heard["clip"]], ["a dog"])
    read = model.prompter.processor.tokenizer.decode(prompts.features["input_ids"][0])
    assert read.startswith("a dog<|audio_bos|>")
    assert heard["activations"].shape == (int(prompts.audio.sum()), 32)
    assert len(heard["answers"]) == 1


def test_only_a_class_is_taken_for_one():
    assert import_class("ard.sae.TopKSAE").__name__ == "TopKSAE"
    with pytest.raises(UserError, match="class_path 'TopKSAE' names no class"):
        import_class("TopKSAE")
