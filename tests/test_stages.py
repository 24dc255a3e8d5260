"""Every stage through its own command, on the demo's YAML files, with tiny models and few clips."""

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import wandb
import yaml
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from wandb.plot.custom_chart import CustomChart

from ard.activations import read_manifest
from ard.activations.layer import read_layer
from ard.activations.store import read_clip_metadata
from ard.audio import SyntheticCorpus, write_audio_shards
from ard.cli import main
from ard.files import in_use
from ard.presets import CONFIGS
from ard.reports.concepts import read_concepts
from ard.reports.tables import NUMBERS
from ard.results import Result, write_json
from ard.run import Cell, Run
from ard.sae import JumpReLUSAE, TopKSAE
from experiments.named_features import chosen_features, found_features
from experiments.named_features import main as print_named_features
from tests import launch
from tests.tracking.panels import figures_of, figures_shown, logged_of, plots_shown, tables_shown

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_audiollm, tiny_clap, tiny_roberta, tmp_path_factory):
    """A run's folder with tests of an SAE and of raw coordinates, made stage by stage as the README says."""
    out = tmp_path_factory.mktemp("run")
    facts = {
        "out": out,
        "model": tiny_audiollm,
        "clap": tiny_clap,
        "bertscore": tiny_roberta,
        "d_in": 32,
        "k": 4,
        "layer": 2,
        "layers": "[0,2]",
        "num_selected": 12,
        "expansion": 2,
        "num_draws": 2,
        "num_steered": 4,
    }
    facts = [f"--run.{name}={value}" for name, value in facts.items()]

    def stage(command, config, *more):
        main([command, "--config", str(CONFIGS / "demo" / f"{config}.yaml"), *facts, *more])

    for split in ("steer", "steer-select"):
        shards = ["shards", "synthetic", "--split", split, "--speech_share", "1.0", "--num_clips", "12"]
        main([*shards, "--out", str(out / "audio" / split)])
    for split in ("probe", "eval"):  # in shards enough for several ranks
        write_audio_shards(SyntheticCorpus(split, num_clips=12, speech_share=0.3), out / "audio" / split, 5)
    stage("extract", "extract")
    stage("extract", "extract", "--run.split=eval", f"--run.activations={out}/activations-eval")
    stage("fit", "fit", "--trainer.max_steps=30")
    stage("test", "test")
    stage("test", "quality")
    poly = ("--run.expansion=null", f"--run.cell={out}/layer-2/poly")
    stage("test", "test", *poly)
    stage("test", "steer")
    stage("test", "steer", *poly)
    about = {"preset": "demo", "seed": 0, "model": tiny_audiollm, "data": "simulated", "layers": [2], "layer": 2}
    write_json(Run(out).path, {**about, "expansions": [2], "expansion": 2, "p": 4, "num_selected": 12})
    return out


def test_several_layers_are_extracted_in_one_pass(run):
    manifest = read_manifest(run / "activations")
    assert (manifest.layers, manifest.d_in, len(manifest.clip_ids)) == ((0, 2), 32, 12)
    assert {path.parent.name for path in run.glob("activations/*/*.tar")} == {"layer-0", "layer-2"}


def test_table_1_has_every_method_with_intervals(run):
    rows = Result.load(run / "layer-2" / "e2" / "matching.json").rows
    rows += Result.load(run / "layer-2" / "poly" / "matching.json").rows
    controls = ["AR&D, names shuffled", "Labels as names", "Captions as names"]
    methods = ["AR&D", "Coverage", "Mean Act.", "Poly. Feats.", "Rand. Rep.", *controls]
    assert sorted(row.method for row in rows) == sorted(methods)
    for row in rows:
        highest = [] if row.method in controls else ["ms"]
        assert list(row.figures) == [*highest, "precision", "recall", "f1", "map", "map_at_matches"]
        for name in ("precision", "recall", "f1", "map"):
            figure = row.figures[name]
            assert 0 <= figure.low <= figure.value <= figure.high <= 1
            assert figure.n == 12


def test_every_figure_says_which_way_is_better(run):
    """All are better when higher, but for those of controls, which are there to be compared with."""
    others = ("names shuffled", "events shifted", "by CLAP, ceiling")
    shuffled = {f"{method}, {other}" for method in ("AR&D", "Poly. Feats.") for other in others}
    controls = {*shuffled, "Labels as names", "Captions as names", "No SAE", "SAE, no clamp", "Rand. Feats."}
    controls.add("Rand. directions")
    better = {
        (path.stem, row.method, name): figure.better
        for path in run.glob("layer-2/*/*.json")
        if "rows" in json.loads(path.read_text(encoding="utf-8"))
        for row in Result.load(path).rows
        for name, figure in row.figures.items()
    }
    assert {about[0] for about in better} >= {
        "matching",
        "matching_paper",
        "monosemanticity",
        "naming",
        "detection",
        "steering",
    }
    assert {about[1] for about in better} >= controls - shuffled | {"AR&D, names shuffled"}
    neither = {"share_reading", "share_hearing", "hearing", "audio_wins", "lag_ms", "concepts_lag_ms"}
    wanted = {about: "neither" if about[1] in controls or about[2] in neither else "higher" for about in better}
    assert better == wanted
    details = Result.load(run / "layer-2" / "e2" / "steering.json").details["tasks"].values()
    assert {draw["sensitivity"]["better"] for task in details for draw in task["random_features"]["draws"]} <= {
        "neither"
    }


def test_one_batch_to_see_if_it_works_writes_nothing(run, tiny_audiollm, tiny_clap, capsys):

    def written():
        """Read all files but wandb's, to which the runs of this process add what is printed."""
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "wandb" not in path.parts}

    before = written()
    facts = {"out": run, "model": tiny_audiollm, "clap": tiny_clap, "d_in": 32, "k": 4, "layer": 2, "layers": "[0,2]"}
    facts |= {"expansion": 2}
    changed = [f"--run.{name}={value}" for name, value in facts.items()]
    for command, config in (("fit", "fit"), ("test", "test"), ("test", "quality"), ("extract", "extract")):
        config = str(CONFIGS / "demo" / f"{config}.yaml")
        main([command, "--config", config, *changed, "--trainer.fast_dev_run", "true"])
        assert "fast_dev_run: nothing is written" in capsys.readouterr().err
    assert written() == before


def test_what_is_shown_is_our_own(run, tiny_audiollm, tiny_clap, tmp_path):
    """Neither tips nor warnings of the libraries, in a process such as a user starts."""
    (tmp_path / "audio").symlink_to(run / "audio")
    facts = {"out": tmp_path, "model": tiny_audiollm, "clap": tiny_clap, "d_in": 32, "k": 4, "layer": 2, "layers": [2]}
    facts |= {"expansion": 2, "evaluation": "null", "num_selected": 12}
    stages = [("extract", "extract"), ("predict", "extract"), ("fit", "fit"), ("validate", "fit"), ("test", "test")]
    given = [f"--run.{name}={value}" for name, value in facts.items()]
    calls = [[command, "--config", str(CONFIGS / "demo" / f"{file}.yaml"), *given] for command, file in stages]
    calls[2].append("--trainer.max_steps=20")
    script = f"from ard.cli import main\nfor words in {calls}:\n    main(words)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    table = done.stdout.splitlines()  # of Lightning's `validate`, which is asked for
    assert "Validate metric" in table[1]
    assert all(line.startswith(("┏", "┃", "┡", "│", "└")) for line in table)
    assert re.fullmatch(
        r"layer 2, expansion 2: \d+ of \d+ concepts have a name, from captions\n(.* have none: .*\n)*",
        re.sub(r"^  .*\n", "", done.stderr, flags=re.MULTILINE),  # without progress, which slow machines show
    )


def test_table_1_says_what_the_other_reading_of_map_gives(run):
    main(["report", "--run", str(run)])
    said = (run / "tables" / "table1.md").read_text(encoding="utf-8")
    assert said.count("rewards many predictions: Poly. Feats.") == 1


def test_table_3_says_how_it_came_about(run):
    main(["report", "--run", str(run)])
    said = (run / "tables" / "table3.md").read_text(encoding="utf-8")
    assert said.count("Sensitivity: of the clips") == said.count("Judge: exact match") == 1
    tasks = Cell.at(run / "layer-2" / "e2").result("steering").details["tasks"].values()
    is_known = any(entry["unchanged"]["value"] is not None for task in tasks for entry in task["selectivity"])
    assert ("Selectivity, the share of answers to the other question" in said) == is_known


def test_the_dashboard_shows_what_is_logged_of_a_run(run, tmp_path):
    main(["dashboard", "--out", str(tmp_path / "dashboard.json")])
    view = json.loads((tmp_path / "dashboard.json").read_text(encoding="utf-8"))
    cell = Cell.at(shutil.copytree(run / "layer-2", tmp_path / "layer-2") / "e2")
    cell.tracking.unlink(missing_ok=True)
    logged = logged_of(cell)
    assert figures_shown(view) <= figures_of(cell)
    assert plots_shown(view) <= {key for key, value in logged.items() if isinstance(value, CustomChart)}
    assert isinstance(logged["concepts"], wandb.Table)
    assert tables_shown(view) == {"concepts", *(Run(run).table(number).stem for number in NUMBERS)}


def test_table_3_has_the_papers_shifts_and_controls(run):
    rows = Result.load(run / "layer-2" / "e2" / "steering.json").rows
    rows += Result.load(run / "layer-2" / "poly" / "steering.json").rows
    methods = {"No SAE", "SAE, no clamp", "Rand. Feats.", "Rand. directions", "AR&D", "AR&D, by effect", "Reverse"}
    methods |= {"Poly. Feats.", "Poly. Feats., by effect", "Prompt"}
    methods |= {"Difference of means", "Linear probe", "Audio minus silence"}
    assert {row.method for row in rows} == methods
    shifts = {(row.source, row.target) for row in rows}
    assert shifts == {("neutral", "happy"), ("sad", "happy"), ("happy", "angry"), ("female", "male")}
    assert len(rows) == 4 * len(methods)
    assert [row.expansion for row in rows if row.method == "No SAE"] == [None] * 4


def test_both_dictionaries_share_the_answers_of_the_unsteered_model(run):
    keys = [json.loads(line)["key"] for line in (run / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(keys) == len(set(keys)) > 2 * 24
    details = Result.load(run / "layer-2" / "e2" / "steering.json").details
    assert set(details["tasks"]) == {"neutral to happy", "sad to happy", "happy to angry", "female to male"}


@pytest.fixture
def steer_command(run, sounds):
    """The arguments of `ard steer` on a file of sound."""

    def words(*options, sound="a dog.wav"):
        given = ["steer", "--run", run, "--audio", sounds / sound, "--prompt", "happy or sad", "--max_new_tokens", 5]
        return [str(word) for word in (*given, *options)]

    return words


@pytest.fixture
def ask(steer_command, capsys):
    """Run `ard steer` and return its lines."""

    def asked(*options, **sound):
        capsys.readouterr()
        main(steer_command(*options, **sound))
        return capsys.readouterr().out.splitlines()

    return asked


@pytest.fixture
def refused(steer_command, capsys):
    """Run `ard steer` on what it must refuse, and return its one line."""

    def line(*options, **sound):
        with pytest.raises(SystemExit) as stopped:
            main(steer_command(*options, **sound))
        assert stopped.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return line


def test_a_feature_is_steered_by_number_and_by_name(run, ask):
    concepts = pq.read_table(run / "layer-2" / "e2" / "concepts.parquet").to_pylist()
    best = max((c for c in concepts if c["name"]), key=lambda c: (c["m"], -c["feature"]))
    largest = float(
        load_file(run / "layer-2" / "e2" / "representatives.safetensors")["max_activation"][best["feature"]]
    )
    feature, without, rebuilt, steered = ask("--feature", best["feature"], "--value", 1000)
    assert feature == f"feature {best['feature']} ({best['name']}): 1000, maximum {largest:g}"
    assert without.startswith("without: ")
    assert rebuilt.startswith("with the SAE, nothing set: ")
    assert steered.startswith("with: ")
    assert steered.removeprefix("with: ") != without.removeprefix("without: ")
    by_name = ["--name", best["name"].upper(), "--unit", "max", "--value", 1000 / largest]
    assert ask(*by_name)[1:] == [without, rebuilt, steered]
    kept = ask("--feature", best["feature"], "--value", 1000, "--keep_error", "true", "--positions", "last")
    assert [line.partition(":")[0] for line in kept[1:]] == ["without", "with"]
    several = ask("--feature", "[3,5]", "--value", "[4,0]", "--phase", "every")
    assert [re.sub(r" \(.*?\)|, max.*", "", line) for line in several[:2]] == ["feature 3: 4", "feature 5: 0"]


FIVE = ("--feature", 5, "--value", 1)


@pytest.mark.parametrize(
    ("options", "sound", "said"),
    [
        (("--feature", 64, "--value", 1), {}, "feature 64 does not exist: this dictionary has features 0 to 63"),
        (("--feature", "[5,6]", "--value", "[1,2,3]"), {}, "give one for all, or one each"),
        (("--feature", "[5,5]", "--value", 1), {}, "give every feature once"),
        ((*FIVE, "--max_new_tokens", 0), {}, "give at least 1 token, 1 clip and 1 feature"),
        (("--value", 1), {}, "Give either --feature, its number, or --name"),
        ((*FIVE, "--name", "dog"), {}, "Give either --feature, its number, or --name"),
        (("--name", "xyzzy", "--value", 1), {}, "no feature has 'xyzzy' in its name"),
        (FIVE, {"sound": "broken.mp3"}, "broken.mp3' cannot be used (unreadable: its content"),
        (FIVE, {"sound": "nowhere.wav"}, "nowhere.wav' cannot be used (missing)"),
        ((*FIVE, "--expansion", 4), {}, "holds no SAE"),
        ((*FIVE, "--run", "{tmp_path}"), {}, "holds no run.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_steered_is_said_in_one_line(refused, tmp_path, options, sound, said):
    options = [str(option).replace("{tmp_path}", str(tmp_path)) for option in options]
    assert said in refused(*options, **sound)


def test_steering_wants_the_features_maxima(run, refused, tmp_path):
    shutil.copytree(run / "layer-2" / "e2" / "sae", tmp_path / "layer-2" / "e2" / "sae")
    shutil.copy(run / "run.json", tmp_path)
    assert "holds no representatives.safetensors: run `lightning test`" in refused(*FIVE, "--run", tmp_path)


def test_a_jumprelu_sae_goes_through_the_same_commands(run, tiny_clap, ask, refused, tmp_path):
    sae = JumpReLUSAE(32, 96, generator=torch.Generator().manual_seed(0))
    sae.threshold.data.uniform_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
    cell = run / "layer-2" / "e3"
    sae.save_pretrained(cell / "sae")
    facts = {"out": run, "cell": cell, "clap": tiny_clap, "d_in": 32, "layer": 2}
    given = [f"--run.{name}={value}" for name, value in facts.items()]
    main(["test", "--config", write_scoring(tmp_path), *given])
    (row,) = Result.load(cell / "monosemanticity.json").rows
    assert (row.method, row.expansion) == ("AR&D", 3)
    with torch.no_grad():
        x = torch.cat([x.float() for _, xs in read_layer(run / "activations", 2).read() for x in xs])
        activations = (x @ sae.W_enc) * (x @ sae.W_enc > sae.threshold)
    largest = load_file(cell / "representatives.safetensors")["max_activation"]
    torch.testing.assert_close(largest, activations.amax(dim=0))
    feature = int(largest.argmax())
    said, without, _, steered = ask("--expansion", 3, "--feature", feature, "--value", 1000)
    assert said == f"feature {feature} (no name): 1000, maximum {largest[feature]:g}"
    assert steered.removeprefix("with: ") != without.removeprefix("without: ")
    assert "activations are 0 or more" in refused("--expansion", 3, "--feature", feature, "--value", -1)
    assert "device 'tpu9' is not there: give cpu" in refused(
        "--expansion", 3, "--feature", feature, "--value", 1, "--device", "tpu9"
    )
    main(["convert", str(cell / "sae"), str(tmp_path / "sae"), "--to", "saelens"])
    assert torch.equal(JumpReLUSAE.from_pretrained(tmp_path / "sae").threshold, sae.threshold)


def test_what_is_longer_than_the_window_is_said(steer_command, capsys):
    main(steer_command("--feature", 5, "--value", 1, sound="long.wav"))
    assert capsys.readouterr().err.strip() == "only the first 1 s of 'long.wav' are heard"


def test_labels_and_concepts_are_written(run):
    found = json.loads((run / "layer-2" / "e2" / "label_auroc.json").read_text(encoding="utf-8"))
    measured = set(found["details"]["per_label"]) | set(found["details"]["not_measured"])
    assert {"man speaking", "woman speaking"} & measured
    assert all(0 <= label["auroc"] <= 1 for label in found["details"]["per_label"].values())
    concepts = pq.read_table(run / "layer-2" / "e2" / "concepts.parquet").to_pylist()
    assert len(concepts) == 64
    assert sum(concept["selected"] for concept in concepts) <= 12
    captions = pq.read_table(run / "captions.parquet").to_pylist()
    assert len({row["id"] for row in captions}) == len(captions) <= 12 + 12  # and evaluation clips


def test_names_are_compared_with_the_labels_their_clips_share(run):
    for cell, method in (("e2", "AR&D"), ("poly", "Poly. Feats.")):
        result = Result.load(run / "layer-2" / cell / "name_similarity.json")
        assert [row.method for row in result.rows] == [method, f"{method}, names shuffled"]
        compared = {row.figures[name].n for row in result.rows for name in ("clap_cosine", "bertscore")}
        left_out = result.details["num_without_name"], result.details["num_without_shared_label"]
        assert len(compared) == 1
        total = result.details["num_concepts"]
        assert total - sum(left_out) <= compared.pop() <= total - max(left_out)
        assert result.choices["rescaled"] is False


def test_table_2_has_the_corpus_labels_in_the_raters_place_and_no_rating(run):
    main(["report", "--run", str(run)])
    rows = json.loads((run / "tables" / "table2.json").read_text(encoding="utf-8"))["rows"]
    assert [row["method"] for row in rows][:2] == [
        "Poly. Feats., true labels as raters",
        "AR&D, true labels as raters",
    ]
    assert all(row["raters"] == "true labels" and "expert_score" not in row for row in rows)
    for cell, row in (("poly", rows[0]), ("e2", rows[1])):
        figure = Result.load(run / "layer-2" / cell / "name_similarity.json").rows[0].figures["clap_cosine"]
        value = None if math.isnan(figure.value) else figure.value  # tiny random models may share no label
        assert (row["clap_cosine"]["value"], row["clap_cosine"]["n"]) == (value, figure.n)
        assert row["clap_cosine"].get("spread") == figure.spread
        assert "bertscore" in row


def test_what_the_sae_loses_is_measured(run):
    cell = Cell.at(run / "layer-2" / "e2")
    norms = cell.result("input_norms").details
    assert len(norms["mean"]) == len(norms["largest"])
    recovered = cell.result("loss_recovered").details
    assert recovered["num_clips"] == 12
    assert min(recovered["original"], recovered["replaced"], recovered["zeroed"]) > 0


def write_scoring(folder, retrieve=(), score=()):
    """Write the demo's test.yaml with the first two evaluators alone, some of their settings changed."""
    config = yaml.safe_load((CONFIGS / "demo" / "test.yaml").read_text(encoding="utf-8"))
    config["trainer"]["callbacks"] = config["trainer"]["callbacks"][:2]
    for callback, settings in zip(config["trainer"]["callbacks"], (retrieve, score), strict=True):
        callback["init_args"] |= dict(settings)
    (folder / "test.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(CONFIGS / "demo" / "run.yaml", folder)
    return str(folder / "test.yaml")


def apart(run, folder):
    """Return a cell with the SAE of a run in a run's folder of its own, which has the same audio."""
    cell = Run(folder).cell(2, 2)
    shutil.copytree(run / "layer-2" / "e2" / "sae", cell.sae)
    (folder / "audio").symlink_to(run / "audio")
    return cell


def scored(run, clap, folder, retrieve=(), score=()):
    """Score the SAE of a run with other settings of the two evaluators, into a cell of its own."""
    cell = apart(run, folder)
    facts = {"out": run, "cell": cell.folder, "clap": clap, "d_in": 32, "layer": 2, "expansion": 2}
    given = (f"--run.{name}={value}" for name, value in facts.items())
    main(["test", "--config", write_scoring(folder, retrieve, score), *given])
    return cell.folder


@pytest.fixture
def folders(tmp_path):
    """Return folders one after another."""
    numbers = itertools.count()

    def folder():
        made = tmp_path / f"run-{next(numbers)}"
        made.mkdir()
        return made

    return folder


def test_readings_and_tie_rules_are_options(run, tiny_clap, folders):
    reading = {"reading": {"sigma": "trace", "pairs": "ordered"}, "num_null_draws": 100, "false_discovery_rate": 0.5}
    cell = scored(run, tiny_clap, folders(), {"ties": "shared_random", "tie_seed": 5}, reading)
    result = Result.load(cell / "monosemanticity.json")
    expected = {"sigma": "trace", "pairs": "ordered", "ddof": 0, "ties": "shared_random", "tie_seed": "5"}
    assert expected.items() <= result.choices.items()
    assert result.choices["num_null_draws"] == 100


def test_the_readings_of_random_representatives_are_options(run, tiny_clap, folders, capsys):
    cell = scored(run, tiny_clap, folders(), {"num_random": 3}, {"random_from": "active", "num_draws": 3})
    drawn = load_file(cell / "monosemanticity.safetensors")
    features = drawn["ard/0/features"]
    active = {f: set(clips) for f, clips in enumerate(active_clips(run))}
    for draw in range(3):
        for feature, clips in zip(features.tolist(), drawn[f"random/{draw}/top_ids"].tolist(), strict=True):
            assert len(set(clips) & active[feature]) == min(4, len(active[feature]))
    assert Result.load(cell / "monosemanticity.json").choices["random_from"] == "active"
    kept = {draw: drawn[f"random/{draw}/m"] for draw in range(3)}
    lowest = {"random_from": "active", "num_draws": 3, "random_lowest": True}
    cell = scored(run, tiny_clap, folders(), {"num_random": 3}, lowest)
    again = load_file(cell / "monosemanticity.safetensors")
    assert torch.equal(again["random/0/top_ids"], drawn["random/0/top_ids"])
    assert not torch.equal(again["random/0/m"], kept[0])
    with pytest.raises(SystemExit, match="2"):
        scored(run, tiny_clap, folders(), {}, {"random_from": "active"})
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "random_from 'active' needs 10 draws from retrieval, and there are 0: give RetrieveRepresentatives num_" in said
    )


def active_clips(run):
    """The clips in which each feature of the run's SAE is active, by the definition."""
    sae = TopKSAE.from_pretrained(run / "layer-2" / "e2" / "sae")
    clips = [x.float() for _, xs in read_layer(run / "activations", 2).read() for x in xs]
    with torch.no_grad():
        codes = [sae.encode(x) for x in clips]
    return [
        [row for row, (values, indices) in enumerate(codes) if (values[indices == feature] > 0).any()]
        for feature in range(sae.d_sae)
    ]


def test_ties_by_pre_activations_take_the_clips_that_are_furthest_from_being_active(run, tiny_clap, folders):
    found = load_file(scored(run, tiny_clap, folders(), {"ties": "preact"}) / "representatives.safetensors")
    sae = TopKSAE.from_pretrained(run / "layer-2" / "e2" / "sae")
    clips = [x.float() for _, xs in read_layer(run / "activations", 2).read() for x in xs]
    with torch.no_grad():
        means = torch.stack([sae.pre_activations(x).mean(dim=0) for x in clips])
    dead = (found["n_active"] == 0).nonzero()[:, 0]
    assert len(dead)
    assert torch.equal(found["ard/bottom_ids"][dead], means[:, dead].argsort(dim=0)[:4].T)
    assert torch.equal(found["ard/top_ids"][dead], means[:, dead].argsort(dim=0, descending=True)[:4].T)


def test_labels_that_names_state_are_listed_with_the_missing_and_the_wrong(run):
    for cell, method in (("e2", "AR&D"), ("poly", "Poly. Feats.")):
        result = Result.load(run / "layer-2" / cell / "stated_labels.json")
        (row,) = result.rows
        stated, missing = result.details["stated"], result.details["missing"]
        assert row.method == method
        assert row.figures["share_stated"].n == len(stated) + len(missing)
        assert row.figures["share_stated"].value == len(stated) / (len(stated) + len(missing))
        assert not stated.keys() & set(missing)
        assert all(names for names in stated.values())
        assert len(result.details["wrong"]) <= result.details["num_named"] <= 12


def test_names_are_put_to_the_test_on_clips_that_they_never_saw(run):
    for cell, method in (("e2", "AR&D"), ("poly", "Poly. Feats.")):
        result = Result.load(run / "layer-2" / cell / "detection.json")
        assert [row.method for row in result.rows] == [method, f"{method}, names shuffled"]
        assert result.details["num_clips"] == 12
        concepts = read_concepts(Cell.at(run / "layer-2" / cell))
        figures = [concept["detection"] for concept in concepts if not math.isnan(concept["detection"])]
        assert len(figures) == result.rows[0].figures["auroc"].n
        assert all(0 <= figure <= 1 for figure in figures)
        assert {concept["n_active_unseen"] is not None for concept in concepts if concept["selected"]} == {True}


@pytest.fixture(scope="module")
def small_batches(run, tiny_audiollm, tiny_clap, tiny_roberta, tmp_path_factory):
    """The arguments of commands on the demo's YAML files, with batches so small that two ranks have some each."""
    configs = shutil.copytree(CONFIGS / "demo", tmp_path_factory.mktemp("configs") / "demo")
    for name in ("test", "steer"):
        file = yaml.safe_load((configs / f"{name}.yaml").read_text(encoding="utf-8"))
        for callback in file["trainer"]["callbacks"]:
            if callback["class_path"].endswith(("NameConcepts", "MeasureSteering")):
                callback["init_args"]["clips_per_batch"] = 2
        (configs / f"{name}.yaml").write_text(yaml.safe_dump(file, sort_keys=False), encoding="utf-8")
    tasks = yaml.safe_load((configs / "run.yaml").read_text(encoding="utf-8"))["tasks"]
    facts = {"out": run, "model": tiny_audiollm, "clap": tiny_clap, "bertscore": tiny_roberta, "d_in": 32, "k": 4}
    facts |= {"layer": 2, "expansion": 2, "num_selected": 12, "tasks": json.dumps([tasks[0], tasks[-1]])}

    def words(command, name, cell, *more):
        given = [f"--run.{fact}={value}" for fact, value in {**facts, "cell": cell.folder}.items()]
        given += ["--trainer.max_steps=30"] if command == "fit" else []
        return [command, "--config", str(configs / f"{name}.yaml"), *given, "--trainer.logger=false", *more]

    return words


RANKS = ["--trainer.accelerator=cpu", "--trainer.strategy=ddp"]
WEIGHTS = "sae_weights.safetensors"


@pytest.fixture(scope="module")
def alone(run, small_batches, tmp_path_factory):
    """A cell with an SAE that two ranks of a node trained, and one process evaluated."""
    cell = apart(run, tmp_path_factory.mktemp("alone"))
    shutil.rmtree(cell.sae)
    command = small_batches("fit", "fit", cell, *RANKS, "--trainer.devices=2")
    launch.finish(launch.start(launch.run_all, [command], None, environments=launch.one_node(2)))
    for name in ("test", "steer"):
        main(small_batches("test", name, cell))
    return cell


def assert_alike(found, expected):
    """Assert that two cells have the same files, but for the last digits of numbers and how long something took."""
    files = set(in_use(expected.folder)) - {"sae"}
    assert set(in_use(found.folder)) - {"sae"} == files
    for name in files:
        kept = [cell.folder / name for cell in (found, expected)]
        if name.endswith(".safetensors"):
            tensors = [load_file(path) for path in kept]
            assert tensors[0].keys() == tensors[1].keys()
            for key, tensor in tensors[1].items():
                torch.testing.assert_close(tensors[0][key], tensor, rtol=1e-6, atol=1e-9, equal_nan=True, msg=key)
        elif name.endswith(".parquet"):
            assert_like(*(pq.read_table(path).to_pylist() for path in kept), name)
        elif name.endswith(".json"):
            results = [json.loads(path.read_text(encoding="utf-8")) for path in kept]
            assert_like(*({**result, "wall_time_s": 0} for result in results), name)
    captions, answers = ([getattr(cell.run, kind) for cell in (found, expected)] for kind in ("captions", "answers"))
    assert pq.read_table(captions[0]).equals(pq.read_table(captions[1]))
    lines = [sorted(path.read_text(encoding="utf-8").splitlines()) for path in answers]
    assert lines[0] == lines[1]
    assert len(lines[0]) > 0


def on_the_page(starts):
    """Return the command of docs/cluster.md that starts so, and the words of Lightning's in it."""
    page = (Path(__file__).parent.parent / "docs/cluster.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [line.split() for line in page.splitlines() if line.startswith(f"{starts} ")]
    place = line.index("fit")
    assert line[place : place + 3] == ["fit", "--config", "configs/paper/fit.yaml"]
    return line[:place], [*RANKS, *line[place + 3 :]]


def test_two_nodes_by_torchrun_train_as_one_node(run, small_batches, alone, folders):
    cell = apart(run, folders())
    shutil.rmtree(cell.sae)
    (torchrun, *options), nodes = on_the_page(".venv/bin/torchrun")
    given = {"node-0": "127.0.0.1", "29500": str(launch.free_port())}
    started = []
    for number in range(2):
        words = [
            str(number) if before == "--node-rank" else given.get(word, word) for before, word in pairwise(options)
        ]
        command = [Path(sys.executable).with_name(Path(torchrun).name), options[0], *words]
        command += small_batches("fit", "fit", cell, *nodes)
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for process in started:
        shown, _ = process.communicate(timeout=120)
        assert process.returncode == 0, shown
    assert (cell.sae / WEIGHTS).read_bytes() == (alone.sae / WEIGHTS).read_bytes()


def test_two_nodes_by_slurm_train_and_evaluate_as_one_process(run, small_batches, alone, folders, tmp_path):
    cell = apart(run, folders())
    shutil.rmtree(cell.sae)
    (_, *options), nodes = on_the_page("srun")
    assert options[:4] == ["--nodes", "2", "--ntasks-per-node", "1"]
    commands = [small_batches(c, n, cell, *nodes) for c, n in (("fit", "fit"), ("test", "test"), ("test", "steer"))]
    launch.finish(launch.start(launch.run_all, commands, tmp_path, environments=launch.slurm(2)))
    assert (cell.sae / WEIGHTS).read_bytes() == (alone.sae / WEIGHTS).read_bytes()
    assert_alike(cell, alone)
    for kind in ("captions", "answers", "captured"):
        first, second = (path.read_text(encoding="utf-8").splitlines() for path in tmp_path.glob(f"{kind}-*"))
        assert kind == "captured" or len({*first, *second}) == len(first) + len(second)
        assert min(len(first), len(second)) > 0.3 * len(first + second)


def test_two_nodes_evaluate_as_one_process_even_if_one_is_lost_meanwhile(run, small_batches, alone, folders, tmp_path):
    cell = apart(run, folders())
    shutil.copytree(alone.sae, cell.sae, dirs_exist_ok=True)
    nodes = on_the_page(".venv/bin/torchrun")[1]
    command, then = (small_batches("test", name, cell, *nodes) for name in ("test", "steer"))
    first, second = launch.start(launch.run_all, [command], tmp_path, environments=launch.torchrun(2))
    while len(list(tmp_path.glob("captions-*"))) < 2:
        assert first.is_alive()
        assert second.is_alive()
        time.sleep(0.001)
    second.kill()
    first.join(60)
    assert first.exitcode == 2
    kept = noted(tmp_path)
    assert 2 <= len(kept) < pq.read_table(alone.run.captions).num_rows
    again = folders()
    launch.finish(launch.start(launch.run_all, [command, then], again, environments=launch.torchrun(2)))
    assert not kept & noted(again)
    assert_alike(cell, alone)


def noted(folder):
    """Return the clips whose captions were made by all ranks that made notes of it."""
    notes = folder.glob("captions-*")
    return {clip_id for path in notes for clip_id in path.read_text(encoding="utf-8").splitlines()}


def assert_like(found, expected, where):
    """Assert that two values are the same but for the last digits of numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_like(found[key], value, f"{where}: {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, value in enumerate(expected):
            assert_like(found[place], value, f"{where}: {place}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True), where
    else:
        assert found == expected, where


def test_monosemanticity_in_the_result_is_that_of_the_files(run, tiny_clap):
    from ard.monosemanticity import monosemanticity

    folder = run / "layer-2" / "e2"
    embeddings = load_file(Run(run).embeddings(tiny_clap, "probe"))["embeddings"]
    lists = load_file(folder / "representatives.safetensors")
    m = monosemanticity(embeddings[lists["ard/top_ids"]], embeddings[lists["ard/bottom_ids"]])
    m = m.masked_fill(lists["n_active"] == 0, torch.nan)
    torch.testing.assert_close(load_file(folder / "monosemanticity.safetensors")["ard/m"], m, equal_nan=True)
    highest = Result.load(folder / "monosemanticity.json").rows[0].figures["ms"]
    assert highest.value == pytest.approx(float(m.nan_to_num(-torch.inf).max()))


def test_every_m_comes_with_how_far_it_is_from_chance_and_the_weighted_score(run):
    for cell, scorers in (("e2", {"ard", "mean", "coverage"}), ("poly", {"ard"})):
        folder = run / "layer-2" / cell
        scores, result = load_file(folder / "monosemanticity.safetensors"), Result.load(folder / "monosemanticity.json")
        assert set(result.details["num_above_chance"]) == scorers
        for scorer in scorers:
            m, p, q = (scores[f"{scorer}/{name}"] for name in ("m", "p_value", "q_value"))
            assert torch.equal(m.isnan(), p.isnan())
            assert (p[~p.isnan()] > 0).all()
            assert int((q <= 0.05).sum()) == result.details["num_above_chance"][scorer]
        weighted = scores["weighted/m"]
        assert weighted[~weighted.isnan()].abs().max() <= 1
        assert int(weighted.isnan().sum()) == result.details["num_without_weighted_ms"] < len(weighted)
        assert result.choices["sigma"] == "cosines"
        assert result.choices["ties"] == "stable"


def test_representatives_say_where_they_are_active(run):
    num_tokens = torch.tensor([n for shard in read_manifest(run / "activations").shards for n in shard.num_tokens])
    for cell in ("e2", "poly"):
        found = load_file(run / "layer-2" / cell / "representatives.safetensors")
        first, last, strongest = (found[f"ard/top_{name}"] for name in ("first", "last", "strongest"))
        active = first >= 0
        assert torch.equal(active, found["coverage/top_scores"] > 0) or cell == "poly"
        assert ((first <= strongest) & (strongest <= last) & (last < num_tokens[found["ard/top_ids"]])).all()
        assert found["activation_histogram"].sum() > 0
        assert (found["activation_quantiles"][:, -1] <= found["max_activation"] * 1.1)[found["n_active"] > 0].all()


def test_the_features_that_names_found_are_held_against_the_corpus(run, capsys):
    found = found_features(Run.load(run))
    chosen = chosen_features(Result.load(run / "layer-2" / "e2" / "steering.json").details)
    assert {feature.target for feature in found} == {"happy", "angry", "male"}
    assert {feature.feature for feature in found} == {number for numbers in chosen.values() for number in numbers}
    folder = run / "activations-eval"
    metadata = [clip for shard in read_manifest(folder).shards for clip in read_clip_metadata(folder, shard)]
    sae = TopKSAE.from_pretrained(run / "layer-2" / "e2" / "sae")
    x = [x.float() for _, xs in read_layer(folder, 2).read() for x in xs]
    for feature in found:
        true = [feature.target in (clip.get("gender"), clip.get("emotion")) for clip in metadata]
        with torch.no_grad():
            codes = [sae.encode(tokens) for tokens in x]
        scores = [float((of.values * (of.indices == feature.feature)).sum(dim=1).mean()) for of in codes]
        expected = roc_auc_score(true, scores) if 0 < sum(true) < len(true) else math.nan
        assert feature.among_all.value == pytest.approx(expected, nan_ok=True)
        assert feature.num_voices == (sum(true), sum("gender" in clip for clip in metadata))
    print_named_features([str(run)])
    assert capsys.readouterr().out.count("\n") == 2 + len(found)
