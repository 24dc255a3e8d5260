"""What a whole run leaves in W&B, read back from its offline files and held to the run's own files."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import soundfile
import wandb
import yaml

from ard.chain import Chain
from ard.presets import CONFIGS
from ard.results import Result
from ard.run import Run
from ard.steps import work
from ard.tracking.cells import figures
from tests.tracking.offline import read_runs
from tests.tracking.server import run_python, serve, sync

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "wandb.md"
GOALS = (1, 3, 4)


def finished(configs, facts, out):
    chain = Chain("demo", {"out": str(out), **facts})
    chain.configs = configs
    chain.fill(GOALS)
    chain.finish()
    wandb.teardown()  # the files are whole
    return chain


@pytest.fixture(scope="module")
def settings(tiny_audiollm, tiny_clap, tmp_path_factory):
    """The demo's YAML files with a short training, and the facts of a tiny run with all that a demo measures."""
    configs = tmp_path_factory.mktemp("configs") / "demo"
    shutil.copytree(CONFIGS / "demo", configs)
    fit = yaml.safe_load((configs / "fit.yaml").read_text(encoding="utf-8"))
    fit["trainer"] |= {"max_steps": 30, "val_check_interval": 15, "log_every_n_steps": 10}
    (configs / "fit.yaml").write_text(yaml.safe_dump(fit, sort_keys=False), encoding="utf-8")
    audio = {
        split: [{"source": "synthetic", "split": split, "seed": 0, "num_clips": 16, "speech_share": share}]
        for split, share in {"probe": 0.5, "eval": 0.5, "made": 0.5, "steer-select": 1.0, "steer": 1.0}.items()
    }
    task = {"source": "neutral", "target": "happy", "prompt": "Happy?", "classes": ["neutral", "happy"], "concept": "a"}
    facts = {"model": tiny_audiollm, "clap": tiny_clap, "d_in": 32, "k": 4, "num_selected": 12, "audio": audio}
    facts |= {"layer": 2, "layers": [2], "expansion": 2, "expansions": [2, 4], "tasks": [task], "num_untrained": 1}
    facts |= {"num_draws": 2, "num_steered": 4}
    return configs, facts


@pytest.fixture(scope="module")
def made(settings, tmp_path_factory):
    """A finished run, its steps, and what W&B has of it."""
    chain = finished(*settings, tmp_path_factory.mktemp("tracked") / "run")
    return chain.run, work(chain.facts, GOALS), read_runs(chain.run.folder)


def tracked(runs, name):
    """The W&B run of a cell or of a training."""
    (found,) = [run for run in runs.values() if run.name == name]
    return found


def test_every_training_and_every_evaluated_cell_has_one_run_and_all_are_ended(made):
    run, steps, runs = made
    cells = {one.cell for one in steps if one.step.name in ("test", "score")}
    names = [f"layer-{layer}/{run.cell(layer, of).label}" for layer, of in cells]
    assert sorted(one.name for one in runs.values()) == sorted([*names, "layer-2/e2-4 fit"])
    assert {one.group for one in runs.values()} == {str(run.folder)}
    assert {one.exit_code for one in runs.values()} == {0}
    assert {one.project for one in runs.values()} == {"ard"}
    trained = tracked(runs, "layer-2/e2-4 fit")
    assert (trained.job_type, trained.tags[0]) == ("fit", "fit")
    assert {"evaluate", "layer-2", "e2", "AR&D"} == set(tracked(runs, "layer-2/e2").tags)


def test_what_is_done_is_not_logged_again_and_what_is_done_again_goes_on_in_its_run(made, settings, tmp_path):
    run, _, runs = made
    copy = shutil.copytree(run.folder, tmp_path / "run")
    shutil.rmtree(copy / "wandb")
    finished(*settings, copy)
    assert read_runs(copy) == {}
    configs, facts = settings
    finished(configs, facts | {"num_selected": 10}, copy)
    again = read_runs(copy)
    assert again.keys() < runs.keys()
    assert tracked(again, "layer-2/e2").summary["monosemanticity/mean_ms"] == pytest.approx(
        Run(copy).own.result("monosemanticity").rows[0].figures["mean_ms"].value
    )


def test_every_figure_of_every_result_file_is_there_with_its_interval(made):
    run, _, runs = made
    results = list(run.folder.glob("layer-*/*/*.json"))
    results = [path for path in results if path.name != "wandb.json"]
    assert {path.stem for path in results} >= {"matching", "steering", "probes", "gain", "monosemanticity", "naming"}
    for path in results:
        cell = run.cell(2, path.parent.name)
        summary = tracked(runs, f"layer-2/{cell.label}").summary
        result = Result.load(path)
        for row in result.rows:
            method = "" if row.method == cell.method else f"{row.method}/"
            shift = f"{row.source} to {row.target}/" if row.source else ""
            for name, figure in row.figures.items():
                key = f"{path.stem}/{method}{shift}{name}"
                for suffix, value in {"": figure.value, "/low": figure.low, "/high": figure.high}.items():
                    assert summary.get(key + suffix, math.nan) == pytest.approx(value, nan_ok=True), (path, key)
        assert figures(result, cell).items() <= summary.items()


def test_the_list_in_the_docs_is_what_is_logged(made):
    run, _, runs = made
    listed = re.findall(r"^\| `((?:train|val)/\w+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    summary = tracked(runs, "layer-2/e2-4 fit").summary
    trained = {name.replace("e4/", "") for name in summary if name.startswith(("train/", "val/"))}
    assert {name for name in trained if "e2/" not in name} == set(listed)
    lines = re.findall(r"^\| `(\w+)` \| (`\w+`.*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    figures_of = {evaluation: set(re.findall(r"`(\w+)`", names)) for evaluation, names in lines}
    measured = {}
    for path in run.folder.glob("layer-*/*/*.json"):
        for row in Result.load(path).rows if path.name != "wandb.json" else ():
            measured.setdefault(path.stem, set()).update(row.figures)
    assert measured == figures_of


def test_trainings_have_their_curves_and_histograms(made):
    trained = tracked(made[2], "layer-2/e2-4 fit")
    for e in (2, 4):
        curve = [row[f"train/e{e}/fvu"] for row in trained.history if f"train/e{e}/fvu" in row]
        assert len(curve) == 3
        assert trained.summary[f"train/e{e}/explained_variance"] == pytest.approx(1 - curve[-1], abs=1e-5)
        assert 0 < trained.summary[f"train/e{e}/l0"] <= 4
        frequency = trained.summary[f"train/e{e}/firing_frequency"]
        assert sum(frequency["values"]) == 32 * e
        assert frequency["bins"][-1] <= 1
        assert trained.summary[f"train/e{e}/decoder_norms"]["bins"] == pytest.approx([1] * 65, abs=0.51)
    assert [row["train/tokens"] for row in trained.history if "train/tokens" in row] == [5120, 10240, 15360]
    assert trained.summary["train/learning_rate"] == pytest.approx(1e-3)


def test_config_says_what_it_is_of_and_with_which_settings(made):
    run, _, runs = made
    own, trained = tracked(runs, "layer-2/e2").config, tracked(runs, "layer-2/e2-4 fit").config
    for config in (own, trained):
        assert (config["preset"], config["model"], config["seed"], config["layer"]) == ("demo", run.model, 0, 2)
        assert config["versions"]["torch"].startswith("2.")
        assert re.fullmatch("[0-9a-f]{40}", config["commit"])
    assert (own["expansion"], own["method"], trained["expansion"]) == (2, "AR&D", [2, 4])
    assert own["settings/ScoreMonosemanticity"]["num_selected"] == 12
    assert own["settings/MatchLabels"]["result"] == "matching_paper"
    assert trained["settings/fit"]["model.k"] == 4
    stamps = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in run.own.folder.glob("stamps/*.json")}
    assert own["digests"].keys() == stamps.keys()


def test_concepts_play_and_every_file_exists(made):
    run, _, runs = made
    files = [file for one in runs.values() for file in one.files.values()]
    assert all(file.is_file() for file in files)
    own = tracked(runs, "layer-2/e2")
    rows = own.table("concepts")
    assert [row["m"] for row in rows] == sorted((row["m"] for row in rows), reverse=True)
    assert {row["feature"] for row in rows} >= set(run.own.tensors("selections")["ard/0/features"].tolist())
    for row in rows:
        assert all(soundfile.info(row[f"clip {rank}"]["file"]).frames for rank in range(1, 5))


def test_tables_and_plots_are_there(made):
    own = tracked(made[2], "layer-2/e2")
    names = {name.split("_")[0].rpartition("/")[2] for name in own.files}
    assert {"table1", "table3", "table4", "gains"} <= names
    assert own.summary["headline"]
    plots = {"monosemanticity/null", "monosemanticity/curve", "matching/curves", "steering/doses/neutral to happy"}
    assert {f"Custom Chart Tables/{plot}_table" for plot in plots} <= own.summary.keys()


def test_artifacts_say_what_each_run_was_made_from(made):
    run, _, runs = made
    made_by = {one.name: [(a.type, a.name) for a in one.artifacts if not a.used] for one in runs.values()}
    used_by = {one.name: [(a.type, a.name) for a in one.artifacts if a.used] for one in runs.values()}
    assert used_by["layer-2/e2-4 fit"] == [("activations", "run-activations"), ("activations", "run-activations-eval")]
    saes = {("sae", "run-layer-2-e2-sae"), ("sae", "run-layer-2-e4-sae")}
    assert saes <= set(made_by["layer-2/e2-4 fit"])
    assert set(used_by["layer-2/e2"]) == {("sae", "run-layer-2-e2-sae")}
    assert used_by["layer-2/poly"] == []
    kinds = {"representatives", "catalogue", "results"}
    assert {type_ for type_, _ in made_by["layer-2/e2"]} >= {*kinds, "report"}
    activations = tracked(runs, "layer-2/e2-4 fit").artifacts[0].manifest
    assert {path: entry["ref"] for path, entry in activations.items()} == {
        "manifest.json": (run.folder / "activations" / "manifest.json").as_uri()
    }
    ours, theirs = (
        next(a.digest for a in tracked(runs, name).artifacts if a.name == "run-layer-2-e2-sae")
        for name in ("layer-2/e2-4 fit", "layer-2/e2")
    )
    assert ours == theirs


def test_all_of_it_is_there_after_wandb_sync_and_an_sae_comes_back(made):
    runs = made[2]
    own, trained = tracked(runs, "layer-2/e2"), tracked(runs, "layer-2/e2-4 fit")
    with serve() as served:
        for one in (trained, own):
            sync(served, *one.folders)
        for one in (trained, own):
            synced = served.runs[one.id]
            assert synced.config == one.config
            assert len(synced.history) == len(one.history)
            assert synced.summary.keys() == one.summary.keys()
            assert synced.files.keys() >= one.files.keys()
        sae = served.artifacts["run-layer-2-e2-sae:v0"]
        assert (sae.made_by, set(sae.used_by)) == (trained.id, {own.id})
        load = (
            "from ard.sae import TopKSAE; print(TopKSAE.from_pretrained('wandb:somebody/ard/run-layer-2-e2-sae:v0').k)"
        )
        assert run_python(served, "-c", load).split()[-1] == "4"
        missing = load.replace("e2-sae:v0", "e3-sae:v0")
        with pytest.raises(AssertionError, match=r"'wandb:somebody/ard/run-layer-2-e3-sae:v0' cannot be fetched"):
            run_python(served, "-c", missing)
    results = served.artifacts["run-layer-2-e2-results:v1"].files
    assert json.loads(results["matching.json"])["rows"]


def test_what_a_crash_kept_from_being_logged_is_logged_in_the_end(made, settings, tmp_path):
    run, _, runs = made
    copy = shutil.copytree(run.folder, tmp_path / "run")
    shutil.rmtree(copy / "wandb")
    (copy / "layer-2" / "poly" / "wandb.json").unlink()
    finished(*settings, copy)
    (again,) = read_runs(copy).values()
    assert (again.name, again.id in runs) == ("layer-2/poly", False)
    assert again.summary["matching/f1"] == tracked(runs, "layer-2/poly").summary["matching/f1"]
