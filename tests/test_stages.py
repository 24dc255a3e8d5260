"""Every stage through its own command, on the demo's YAML files, with tiny models and few clips."""

import json
import math
import re
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
import wandb
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from wandb.plot.custom_chart import CustomChart

from ard.activations import read_manifest
from ard.activations.layer import read_layer
from ard.activations.store import read_clip_metadata
from ard.cli import main
from ard.presets import CONFIGS
from ard.reports.concepts import read_concepts
from ard.reports.tables import NUMBERS
from ard.results import Result, write_json
from ard.run import Cell, Run
from ard.sae import JumpReLUSAE, TopKSAE
from experiments.named_features import chosen_features, found_features
from experiments.named_features import main as print_named_features
from tests.stages import extract, write_scoring
from tests.tracking.panels import figures_of, figures_shown, logged_of, plots_shown, tables_shown

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_audiollm, tiny_clap, tiny_roberta, tmp_path_factory):
    """A run's folder with tests of an SAE and of raw coordinates, made stage by stage as the README says."""
    out = tmp_path_factory.mktemp("run")
    stage = extract(out, tiny_audiollm, tiny_clap, tiny_roberta)
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
