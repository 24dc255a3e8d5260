"""The steps of a run, each done once with its settings, through the demo's YAML files on tiny data."""

import fcntl
import json
import shutil
from functools import partial
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import torch
import wandb
import yaml

from ard.audio import write_audio_shards
from ard.chain import Chain, claim_run, reopened
from ard.chain.agenda import _is_there
from ard.cli import main
from ard.files import LOCK, in_use
from ard.naming import NameConcepts
from ard.presets import CONFIGS, plain
from ard.reports import build_tables
from ard.results import write_json
from ard.run import Run
from ard.sae import TopKSAE
from ard.stamps import read_stamp
from ard.steps import work, work_on
from ard.study import Concept, Store
from ard.types import UserError
from tests.audiollm.families.encoders import hubert
from tests.stores import write_activations

pytestmark = pytest.mark.slow


@pytest.fixture
def facts(tmp_path):
    """The facts of a run whose activations are there: one layer of 40 clips of 50 tokens."""
    write_activations(tmp_path / "activations", [({"id": f"c{n}"}, torch.randn(50, 16)) for n in range(40)])
    settings = {"activations": str(tmp_path / "activations"), "evaluation": None}
    return {**settings, "d_in": 16, "k": 2, "layers": [0], "layer": 0}


def test_the_expansions_of_a_layer_are_trained_together_and_each_is_what_it_is_alone(tmp_path, facts, capsys):
    def train(name, expansions):
        chain = Chain("demo", {"out": str(tmp_path / name), "expansions": expansions, **facts})
        chain._train([one for one in work(chain.facts, [4]) if one.step.name == "fit"])

    train("together", [2, 4])
    train("together", [2, 4])  # which is done
    assert capsys.readouterr().err.count("SAE: layer 0, expansion 2, 4") == 1
    for expansion in (2, 4):
        train("alone", [expansion])
        cells = [Run(tmp_path / name).cell(0, expansion) for name in ("together", "alone")]
        weights = [cell.sae / "sae_weights.safetensors" for cell in cells]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        kept = [TopKSAE.from_pretrained(cell.sae).metadata for cell in cells]
        assert kept[0]["metrics"] == kept[1]["metrics"]
        assert 0 < kept[0]["metrics"]["fvu"] < 1
        assert (kept[0]["model_name"], kept[0]["layer"]) == ("none", 0)
        assert kept[0]["metrics_on"] == "the clips that it was trained on"
    assert len(list((tmp_path / "alone" / "wandb").glob("offline-run-*"))) == 2  # one for each training
    assert wandb.run is None  # none of them is left open


def test_a_training_side_by_side_goes_on_as_such_and_starts_anew_where_cells_are_chosen(tmp_path, facts, monkeypatch):
    trainings = []

    def stopped(command, name, settings):
        """Leave a checkpoint, where the settings have it."""
        (saver,) = [one for one in settings["trainer"]["callbacks"] if "dirpath" in one.get("init_args", {})]
        path = Path(saver["init_args"]["dirpath"]) / "step=200.ckpt"
        trainings.append((path.parent.parent.name, settings.get("ckpt_path") == str(path)))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({}, path)

    monkeypatch.setattr("ard.chain.chain.run_config", stopped)
    chain = Chain("demo", {"out": str(tmp_path / "run"), "expansions": [2, 4], **facts})
    both = work(chain.facts, [4])
    for works in (both, both, work_on(both, {(0, 2)}), work_on(both, {(0, 2)})):
        chain._train([one for one in works if one.step.name == "fit"])
    assert trainings == [("e2-4", False), ("e2-4", True), ("e2", False), ("e2", True)]


def test_table_2_scores_a_study_that_somebody_answered(tmp_path, facts, tiny_clap, capsys):
    chain = Chain("demo", {"out": str(tmp_path / "run"), "clap": tiny_clap, "expansion": 2, **facts})
    chain.run = Run.open(chain.run.folder, {"preset": "demo", **plain(chain.facts)})
    chain.score_study()  # there is none
    concept = Concept("a1", "AR&D", 0, 2, 7, "a dog barking", ("c0", "c1"), ("a dog", "a dog barks"))
    store = Store.create(chain.run.study, [concept], seed=0)
    chain.score_study()  # nobody answered
    assert chain.run.own.result("study") is None
    anna = store.join("Anna")
    store.label(anna, concept, "a dog")
    store.rate(anna, concept, 4)
    chain.score_study()
    (row,) = chain.run.own.result("study").rows
    assert (row.method, row.figures["expert_score"].value) == ("AR&D", 4)
    assert capsys.readouterr().err.count("study: ") == 1


def test_what_only_a_model_that_answers_can_do_is_left_out_of_an_encoders_run(tmp_path, capsys, tiny_audiollm):
    (tmp_path / "hubert").mkdir()
    hubert(tmp_path / "hubert")
    chain = Chain("demo", {"out": str(tmp_path / "run"), "model": str(tmp_path / "hubert")})
    assert (chain.facts.captioner, chain.facts.tasks) == (None, [])
    chain.check = lambda goals: None
    chain.fill([])
    reason = f"left out, since '{tmp_path / 'hubert'}' is an encoder, which answers nothing"
    assert lines(capsys) == [f"captions: {reason}", f"steering: {reason}"]
    others = Chain("demo", {"out": str(tmp_path / "run"), "model": str(tmp_path / "hubert"), "captioner": "embedded"})
    assert others.facts.captioner == "embedded"
    answering = Chain("demo", {"out": str(tmp_path / "run"), "model": tiny_audiollm})
    assert (answering.facts.captioner, len(answering.facts.tasks)) == (tiny_audiollm, 4)


def edit(configs, file, change):
    """Change a YAML file of a preset."""
    path = configs / f"{file}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def tiny(tiny_audiollm, tiny_clap, tmp_path_factory):
    """The facts of a tiny run, and the demo's YAML files with a short training."""
    configs = tmp_path_factory.mktemp("configs") / "demo"
    shutil.copytree(CONFIGS / "demo", configs)
    edit(configs, "fit", lambda fit: fit["trainer"].update(max_steps=30, val_check_interval=30))
    audio = {
        split: [{"source": "synthetic", "split": split, "seed": 0, "num_clips": 12}] for split in ("probe", "eval")
    }
    facts = {"model": tiny_audiollm, "clap": tiny_clap, "d_in": 32, "k": 4, "num_selected": 12, "audio": audio}
    return configs, {
        **facts,
        "layer": 2,
        "layers": [2],
        "expansion": 2,
        "expansions": [2],
        "tasks": [],
        "num_untrained": 0,
    }


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A run that is filled for Table 1."""
    out = tmp_path_factory.mktemp("made")
    chained(tiny, out).fill([1])
    return out


def chained(tiny, out, redo=(), cells=None, **changes):
    configs, facts = tiny
    chain = Chain("demo", {"out": str(out), **facts, **changes}, redo, cells)
    chain.configs = configs
    return chain


@pytest.fixture
def out(made, tmp_path):
    """A copy of the run, elsewhere."""
    return shutil.copytree(made, tmp_path / "moved")


def written(out):
    """When each file of a run was written, but for locks and what is logged."""
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.name not in (LOCK, "wandb.json") and "wandb" not in path.relative_to(out).parts
    }


def redone(out, before, cell="e2"):
    """Which files of a cell were written since, by name."""
    after, folder = written(out), f"layer-2/{cell}/"
    anew = (path for path in after if after[path] != before.get(path) and path.startswith(folder))
    return sorted(path.removeprefix(folder) for path in anew if "/stamps/" not in path)


def lines(capsys):
    """What was shown of the steps, line by line."""
    return [line.removeprefix("· ") for line in capsys.readouterr().err.splitlines() if line.startswith("· ")]


def test_what_is_done_is_not_done_again_also_when_the_folder_was_moved(tiny, out, capsys):
    before = written(out)
    capsys.readouterr()
    chained(tiny, out).fill([1])
    unlike = {path for path, at in written(out).items() if before.get(path) != at}
    assert unlike <= {"run.json", "clips.parquet", "failures.json"}
    assert lines(capsys) == []
    assert {line.rpartition(": ")[2] for line in chained(tiny, out).list_work([1])} == {"done"}


def test_a_run_is_reopened_with_the_facts_that_it_has(tiny, out, capsys):
    assert Run(out).facts["goals"] == [1]
    again = reopened(Run(out))
    again.configs = tiny[0]
    assert plain(again.facts) == plain(chained(tiny, out).facts)
    assert list(again.list_unfinished([1])) == []
    (out / "layer-2/e2/stamps/MatchLabels.json").unlink()
    (out / "layer-2/e2/matching_paper.json").unlink()
    assert list(again.list_unfinished([1])) == ["test: layer 2, expansion 2: MatchLabels: not done yet"]
    (out / "layer-2/e2/label_auroc.json").unlink()  # its stamp says that there was one
    assert list(again.list_unfinished([1]))[-1] == "test: layer 2, expansion 2: FindLabels: not done yet"
    chained(tiny, out).fill([4])
    assert Run(out).facts["goals"] == [1, 4]


def test_another_setting_of_an_evaluator_runs_that_evaluator_alone(tiny, out, capsys):
    before = written(out)
    capsys.readouterr()
    chained(tiny, out, matching={"gamma": 0.5}).fill([1])
    matched = ["active.safetensors", "matching.json", "matching_paper.json", "matching_resamples.safetensors"]
    for cell in ("e2", "poly"):
        assert redone(out, before, cell) == [*matched, "stated_labels.json"]
    assert lines(capsys) == [
        "test: layer 2, expansion 2, Poly. Feats., half-waves (MatchLabels: reading.gamma changed from 0.7 to 0.5)"
    ]
    assert Run(out).own.result("matching").choices["gamma"] == 0.5


def test_a_cell_that_another_process_holds_is_left_for_last(tiny, out, capsys):
    capsys.readouterr()
    with (out / "layer-2" / "poly" / LOCK).open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        released = Timer(6, file.close)
        released.start()
        chained(tiny, out, cells=[(2, 2)], matching={"gamma": 0.6}).fill([1])
        assert released.finished.is_set()
    changed = "(MatchLabels: reading.gamma changed from 0.7 to 0.6)"
    assert lines(capsys) == [
        f"test: layer 2, {cells} {changed}" for cells in ("expansion 2, half-waves", "Poly. Feats.")
    ]
    assert Run(out).cell(2, None).result("matching").choices["gamma"] == 0.6


def test_what_needs_an_evaluator_runs_after_it(tiny, out, capsys):
    before = written(out)
    capsys.readouterr()
    chained(tiny, out, activity=0.25).fill([1])
    of_names = ["axes.parquet", "detection.json", "detection.parquet", "label_auroc.json"]
    assert redone(out, before) == [*of_names, "matching_paper.json", "name_axes.json"]
    assert lines(capsys)[0].endswith("(MatchLabels: activity changed from 0.5 to 0.25)")
    before = written(out)
    chained(tiny, out, activity=0.25, num_selected=8).fill([1])
    kept = {"representatives.safetensors", "scores.safetensors", "label_auroc.json"}
    anew = set(redone(out, before))
    assert not anew & kept
    of_names = {"naming.json", "names.parquet", "concepts.parquet", "matching.json", "name_similarity.json"}
    assert anew >= {"monosemanticity.safetensors", "stated_labels.json", "detection.json"} | of_names
    assert lines(capsys)[0].endswith("(ScoreMonosemanticity: num_selected changed from 12 to 8)")


def test_another_setting_of_the_training_is_refused_before_anything_is_written(tiny, out):
    before = written(out)
    with pytest.raises(UserError) as refused:
        chained(tiny, out, k=5).fill([1])
    said = str(refused.value)
    assert "fit: layer 2, expansion 2 of " in said
    assert "with other settings: model.k changed from 4 to 5; give --redo [fit] to do it again" in said
    assert "\n" not in said
    assert written(out) == before


def test_redo_does_it_and_what_comes_of_it(tiny, out, capsys):
    before = written(out)
    capsys.readouterr()
    chained(tiny, out, redo=["fit"], k=5).fill([1])
    assert TopKSAE.from_pretrained(Run(out).own.sae).k == 5
    assert {"matching.json", "naming.json", "sae/cfg.json", "scores.safetensors"} <= set(redone(out, before))
    assert redone(out, before, "poly") == []
    assert all(before[path] == at for path, at in written(out).items() if path.startswith(("audio/", "activations")))
    assert lines(capsys)[0] == "SAE: layer 2, expansion 2 (model.k changed from 4 to 5)"
    before = written(out)
    chained(tiny, out, k=5).fill([1])
    assert redone(out, before) == []


def test_sounds_that_were_added_leave_activations_that_a_new_run_would_give(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ard.chain.chain.write_audio_shards", partial(write_audio_shards, clips_per_shard=4))

    def fill(out, num_clips, redo=()):
        audio = {"probe": [{"source": "synthetic", "split": "probe", "seed": 0, "num_clips": num_clips}]}
        chained(tiny, tmp_path / out, redo, audio=audio, evaluation=None).fill(["concepts"], until="extract")

    fill("grown", 9)
    before = written(tmp_path / "grown")
    with pytest.raises(
        UserError,
        match=r"grown' was made, or begun, with other sounds \(clips changed from .* give --redo \[audio,extract,fit\] "
        r"to make it anew with those that are there now, where activations that would be the same are kept, "
        r"--redo \[audio\] if they are the same sounds elsewhere, or another",
    ):
        fill("grown", 11)
    assert written(tmp_path / "grown") == before
    capsys.readouterr()
    fill("grown", 11, ["audio", "extract", "fit"])
    assert (
        "activations: probe, layers [2] in one pass, but for 2 shards whose clips are as they were" in lines(capsys)[0]
    )
    after = written(tmp_path / "grown")
    same = {path for path, at in after.items() if at == before.get(path) and path.endswith(".tar")}
    assert same == {f"activations/layer-2/00000{shard}.tar" for shard in (0, 1)}
    fill("new", 11)
    for path in after:
        if path.startswith("activations/"):
            assert (tmp_path / "grown" / path).read_bytes() == (tmp_path / "new" / path).read_bytes(), path
    fill("grown", 11, ["extract"])  # is asked for, and done from the start
    assert not {path for path in same if written(tmp_path / "grown")[path] == after[path]}


def test_untrained_dictionaries_are_drawn_once_and_measured_like_the_trained_one(tiny, out, capsys):
    untrained = {"num_untrained": 2}
    chained(tiny, out, **untrained).fill([1])
    trained, drawn = Run(out).own, Run(out).controls(2, 2)
    assert [cell.method for cell in drawn] == ["Random tokens", "Untrained SAE", "Untrained SAE"]
    own = TopKSAE.from_pretrained(trained.sae)
    for cell in drawn:
        control = TopKSAE.from_pretrained(cell.sae)
        assert (control.d_sae, control.k, control.method) == (own.d_sae, own.k, cell.method)
        assert [row.method for row in cell.result("matching").rows] == [cell.method]
        assert cell.result("label_auroc").rows[0].expansion == 2
    rows = {row["method"]: row for row in build_tables(out, [1])[0].rows}
    values = [cell.result("matching").rows[0].figures["f1"].value for cell in drawn[1:]]
    assert rows["Untrained SAE"]["f1"]["value"] == pytest.approx(np.mean(values))
    before = written(out)
    chained(tiny, out, **untrained).fill([1])
    assert [redone(out, before, cell.label) for cell in drawn] == [[], [], []]
    capsys.readouterr()
    chained(tiny, out, redo=["fit"], k=5, **untrained).fill([1])  # and again with another training
    assert "control: layer 2, e2-untrained-0 (fit has changed)" in lines(capsys)
    assert {TopKSAE.from_pretrained(cell.sae).k for cell in drawn} == {5}


def test_an_unknown_step_cannot_be_redone(tiny, tmp_path):
    with pytest.raises(UserError, match=r"step 'fitt' does not exist: the steps are audio, extract, fit, control"):
        chained(tiny, tmp_path, redo=["fitt"])


def test_settings_that_cannot_change_a_result_change_nothing(tiny, out, tmp_path, capsys):
    configs = shutil.copytree(tiny[0], tmp_path / "configs")
    edit(configs, "extract", lambda file: file["data"]["init_args"].update(num_workers=1))
    edit(configs, "fit", lambda file: file["trainer"].update(log_every_n_steps=7, enable_progress_bar=False))
    edit(configs, "test", lambda file: file["trainer"].update(logger=False))
    before = written(out)
    capsys.readouterr()
    chained((configs, tiny[1]), out).fill([1])
    assert redone(out, before) == redone(out, before, "poly") == []
    assert lines(capsys) == []


def test_a_run_without_stamps_is_taken_as_it_is_with_one_warning_each(tiny, out, caplog):
    for stamps in out.rglob("stamps"):
        shutil.rmtree(stamps)
    before = written(out)
    chained(tiny, out).fill([1])
    assert redone(out, before) == redone(out, before, "poly") == []
    said = [record.getMessage() for record in caplog.records if "without a stamp" in record.getMessage()]
    assert "fit: layer 2, expansion 2: made without a stamp, and taken as it is" in said
    assert len(said) == len(set(said))
    caplog.clear()
    chained(tiny, out).fill([1])
    assert not [record for record in caplog.records if "stamp" in record.getMessage()]
    with pytest.raises(UserError, match="k changed from 4 to 5"):  # from here on it is known
        chained(tiny, out, k=5).fill([1])


def test_a_training_that_was_begun_does_not_go_on_with_other_settings(tiny, out, monkeypatch, capsys):
    shutil.rmtree(out / "layer-2" / "e2")

    def killed(command, *_):
        assert command == "fit"
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ard.chain.chain.run_config", killed)
        with pytest.raises(KeyboardInterrupt):
            chained(tiny, out).fill([1])
    with pytest.raises(UserError, match=r"was done, or begun, with other settings: model\.k changed from 4 to 5"):
        chained(tiny, out, k=5).fill([1])
    capsys.readouterr()
    chained(tiny, out).fill([1])  # with its own it does
    assert lines(capsys)[0] == "SAE: layer 2, expansion 2"
    assert Run(out).own.result("matching") is not None


def test_a_crash_in_one_evaluator_does_not_repeat_those_before_it(tiny, out, monkeypatch):
    cell = Run(out).cell(2, 2)
    for path in cell.folder.iterdir():
        if path.is_file():
            path.unlink()
    for stamp in (cell.folder / "stamps").iterdir():
        if stamp.stem != "fit":
            stamp.unlink()

    def fails(*_):
        raise RuntimeError("no names today")

    with monkeypatch.context() as patched:
        patched.setattr(NameConcepts, "evaluate", fails)
        with pytest.raises(RuntimeError, match="no names today"):
            chained(tiny, out).fill([1])
    first = {f"{name}.safetensors" for name in ("representatives", "monosemanticity", "timelines", "scores")}
    first.add("monosemanticity.json")
    assert set(in_use(cell.folder)) - {"checkpoints"} == {*first, "sae", "stamps"}
    before = written(out)
    chained(tiny, out).fill([1])
    assert not first & set(redone(out, before))
    assert cell.result("matching") is not None


def test_what_a_crash_kept_from_being_done_again_is_not_taken_for_done(tiny, out, monkeypatch):
    def fails(*_):
        raise RuntimeError("no names today")

    with monkeypatch.context() as patched:
        patched.setattr(NameConcepts, "evaluate", fails)
        with pytest.raises(RuntimeError, match="no names today"):
            chained(tiny, out, num_selected=8).fill([1])
    before = written(out)
    chained(tiny, out, num_selected=8).fill([1])  # names and matching of 12 concepts are still there
    anew = set(redone(out, before))
    assert anew >= {"names.parquet", "naming.json", "matching.json", "detection.json", "stated_labels.json"}
    assert not anew & {"representatives.safetensors", "monosemanticity.safetensors", "scores.safetensors"}
    assert Run(out).own.result("naming").details["num_concepts"] == 8


def test_a_dry_run_lists_what_is_to_do_and_writes_nothing(tiny, out, tmp_path, capsys):
    given = [f"--run.{name}={json.dumps(value)}" for name, value in tiny[1].items() if name != "audio"]
    main(["table", "4", "--dry-run", "--out", str(tmp_path / "none"), *given])
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["audio: probe: not done yet", "audio: eval: not done yet"]
    assert "fit: layer 2, expansion 2: not done yet" in said
    assert "score: layer 2, Poly. Feats.: RetrieveRepresentatives: not done yet" in said
    assert not (tmp_path / "none").exists()
    before = written(out)
    assert list(chained(tiny, out).list_work([4])) == [
        "audio: probe: done",
        "audio: eval: done",
        "extract: probe: done",
        "extract: eval: done",
        "fit: layer 2, expansion 2: done",
        "score: layer 2, expansion 2: done",
        "score: layer 2, Poly. Feats.: done",
        "score: layer 2, half-waves: done",
    ]
    (line,) = [line for line in chained(tiny, out, k=5).list_work([4]) if line.startswith("fit")]
    assert line == "fit: layer 2, expansion 2: model.k changed from 4 to 5"
    assert written(out) == before


def test_another_preset_does_not_run_in_the_same_folder(tiny, out):
    about = json.loads((out / "run.json").read_text(encoding="utf-8"))
    (out / "run.json").write_text(json.dumps({**about, "preset": "paper"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"holds a run of preset 'paper', not 'demo': choose another --out"):
        chained(tiny, out).fill([1])


def test_a_folder_that_holds_only_what_wandb_logged_is_free(tmp_path):
    (tmp_path / "wandb" / "offline-run-1").mkdir(parents=True)
    with claim_run(tmp_path):
        pass
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match="is in use, and not by a run"), claim_run(tmp_path):
        pass


def test_what_somebody_else_put_beside_it_stays_when_a_step_is_done_again(tiny, out):
    mine = [out / "layer-2/e2/notes.txt", out / "layer-2/e2/sae/card.md", out / "activations/layer-2/mine.tar"]
    for path in mine:
        path.write_text("mine", encoding="utf-8")
    chained(tiny, out, redo=["extract", "fit"], k=5).fill(["concepts"])
    assert [path.read_text(encoding="utf-8") for path in mine] == ["mine"] * 3
    assert Run(out).own.result("label_auroc") is not None


def test_what_an_earlier_version_stamped_is_there_only_with_its_files(tmp_path):
    cell, path = Run(tmp_path).cell(0, 2), tmp_path / "stamp.json"
    for kept, expected in (({}, False), ({"results": []}, True), ({"results": ["naming"]}, False)):
        write_json(path, {"settings": {}, "needs": {}, **kept})
        assert _is_there(NameConcepts, cell, read_stamp(path)) is expected
    for file in NameConcepts.makes:
        cell.path(file).parent.mkdir(parents=True, exist_ok=True)
        cell.path(file).touch()
    write_json(path, {"settings": {}, "needs": {}})
    assert _is_there(NameConcepts, cell, read_stamp(path))
