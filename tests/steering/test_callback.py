"""Table 3 of a tiny real model, a real dictionary and a judge behind an endpoint, in one run and in several."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ard.audio import read_clips, write_audio_shards
from ard.audiollm import AudioLLM
from ard.cli import main
from ard.naming import EndpointChat
from ard.presets import CONFIGS
from ard.reports import notes
from ard.results import Result
from ard.run import Run
from ard.sae import TopKSAE
from ard.steering import ChatJudge, Design, MeasureSteering, SteeringTask
from ard.steering.callback import _is_ranked, _read_split
from ard.steering.experiment import Measured
from ard.steering.functional import is_selection
from ard.types import Clip, UserError
from tests.stores import write_activations

TASKS = [
    SteeringTask("sad", "happy", "happy or sad", ["happy", "sad"], "a happy man", "a dog"),
    SteeringTask("female", "male", "a man speaking", ["female", "male"], "a man", "a dog"),
]


METHODS = {"No SAE", "SAE, no clamp", "Rand. Feats.", "Rand. directions", "AR&D", "AR&D, by effect"}
METHODS |= {"Difference of means", "Linear probe", "Audio minus silence", "Prompt"}


def write_clips(folder, lengths=range(24), group=lambda i: None):
    """Clips of known emotion and gender, each as long as its number says."""
    rng = np.random.default_rng(0)
    known = [(emotion, gender) for emotion in ("happy", "sad") for gender in ("female", "male")] * 6
    clips = (
        Clip(
            f"c{i}",
            0.2 * rng.standard_normal(8000 + 300 * n).astype(np.float32),
            16000,
            "t",
            emotion=known[i][0],
            gender=known[i][1],
            group=group(i),
        )
        for i, n in enumerate(lengths)
    )
    write_audio_shards(clips, folder)


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """A cell as the stages before leave it, activations, and clips of known emotion and gender."""
    run = Run(tmp_path_factory.mktemp("steering"))
    write_clips(run.audio("steer"))
    write_activations(run.activations("probe"), [({"id": "c"}, torch.randn(9, 32))], layer=1)
    cell = run.cell(1, 2)
    TopKSAE(32, 64, k=4, generator=torch.Generator().manual_seed(0)).save_pretrained(cell.sae)
    ones = torch.ones(64, dtype=torch.int64)
    cell.save_tensors("representatives", {"max_activation": torch.full((64,), 4.0), "n_active": 3 * ones})
    selected = {"features": torch.arange(6), "m": torch.arange(6.0), "top_ids": torch.zeros(6, 4, dtype=torch.int64)}
    cell.save_tensors("selections", {f"ard/0/{key}": value for key, value in selected.items()})
    names = ["a dog", "a man", "rain", "happy", "sad", None]
    cell.save_rows("names", [{"scorer": "ard", "draw": 0, "feature": i, "name": name} for i, name in enumerate(names)])
    return cell


@pytest.fixture
def steering(cell, tiny_audiollm, tiny_clap, tmp_path):
    """Measure in a copy of the run, and return the result as it is read again."""

    def measure(base_url, name="first", **settings):
        out = shutil.copytree(cell.run.folder, tmp_path / name, dirs_exist_ok=True)
        chat = EndpointChat(base_url, "a-model", cache=out / "verdicts.jsonl", max_retries=0, concurrency=1)
        few = {"num_features": [1, 2], "multiples": [1.0, 4.0], "doses": [1.0, 4.0], "num_draws": 2, "most_clips": 4}
        design = Design(**few, denominators=["truth", "predicted"])  # the first has clips whatever the model says
        given = {"audio": cell.run.audio("steer"), "selection_share": 0.4, "judge": ChatJudge(chat), "design": design}
        given |= {"model": tiny_audiollm, "clap": tiny_clap, "max_new_tokens": 3, "clips_per_batch": 4, "tasks": TASKS}
        MeasureSteering(**(given | settings))(Run(out).cell(1, 2))
        return Run(out).cell(1, 2).result("steering")

    return measure


def keys(path):
    return [json.loads(line)["key"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_the_table_has_every_control_and_the_judges_agreement(misbehave, steering, cell, tmp_path):
    result = steering(misbehave(then="coin").base_url)
    assert {row.method for row in result.rows} == METHODS | {"Reverse"}
    assert len(result.rows) == 2 * len(METHODS | {"Reverse"})
    for row in result.rows:
        figure = row.figures["sensitivity"]
        assert figure.n == (2 if row.method.startswith("Rand.") else figure.n) > 0
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
    for name, task in result.details["tasks"].items():
        assert task["chosen"]["by"] == "CLAP text cosine"
        assert task["num_clips"] + task["chosen"]["num_clips_of_selection"] <= len(
            list(read_clips(cell.run.audio("steer")))
        )
        assert [point["multiple"] for point in task["dose_response"]] == [None, 0.0, 1.0, 4.0]
        assert all(point["perplexity"] >= 1 for point in task["dose_response"])
        assert [entry["prompt"] for entry in task["selectivity"]] == [
            other.prompt for other in TASKS if other.name != name
        ]
        assert [layer["layer"] for layer in task["layers"]] in ([], [0, 1, 2, 3])  # no clip may be answered `sad`
        assert task["diagnosis"] is None or task["diagnosis"]["wrong"]
    directions = load_file(tmp_path / "first" / "layer-1" / "e2" / "directions.safetensors")
    assert set(directions) == {
        f"{task.name}/{method}"
        for task in TASKS
        for method in ("Difference of means", "Linear probe", "Audio minus silence")
    }
    assert all(float(direction.norm()) == pytest.approx(1, abs=1e-5) for direction in directions.values())
    assert result.details["num_unreadable"] == 0
    assert -1 <= result.details["kappa_with_exact_match"] <= 1
    said, *side_effects = notes.steering([result])
    assert "Scores: AxBench, by a-model, 0 to 2" in side_effects[0]
    assert {len(task["methods"]) for task in result.details["tasks"].values()} == {5}
    for task in result.details["tasks"].values():
        for left in (task["at_setting"], *(method["at_setting"] for method in task["methods"].values())):
            assert left["axbench"]["num_unreadable"] == 0
            assert left["axbench"]["overall"]["n"] > 0
    forecast = result.details["forecast"]
    expected = {(row["task"], row["method"], row["strength"], row["prompt"]) for row in forecast["settings"]}
    assert len(expected) == len(forecast["settings"])
    assert re.search(r"Judge: a-model; 0 of \d+ verdicts could not be read", said)
    assert "Cohen's kappa with exact match on the" in said
    assert result.choices["selection"] == "a share of 0.4"


@pytest.mark.slow
def test_unreadable_verdicts_are_counted_and_are_no_no(misbehave, steering):
    result = steering(misbehave(then="say:I would rather not say").base_url)
    assert result.details["num_unreadable"] == result.details["num_verdicts"] > 0
    assert {row.figures["sensitivity"].n for row in result.rows} == {0}
    assert {row.figures["sensitivity_of_predicted"].n for row in result.rows if not row.method.startswith("Rand.")} == {
        0
    }
    assert "0 others: undefined" in notes.steering([result])[0]


@pytest.mark.slow
def test_a_stopped_run_asks_neither_model_nor_judge_twice_and_ends_the_same(misbehave, steering, monkeypatch, tmp_path):
    whole = steering(misbehave(then="coin").base_url, "whole")
    generate, given = AudioLLM.generate, []

    def failing(self, prompts, **settings):
        if len(given) == 9:
            raise RuntimeError("the power is cut")
        given.append(len(prompts.valid))
        return generate(self, prompts, **settings)

    monkeypatch.setattr(AudioLLM, "generate", failing)
    server = misbehave(*["coin"] * 11, "500", then="coin")
    with pytest.raises(RuntimeError, match="the power is cut"):
        steering(server.base_url, "broken")
    given.append(0)  # from here on it works
    with pytest.raises(UserError, match="keeps failing"):
        steering(server.base_url, "broken")
    resumed = steering(server.base_url, "broken")
    assert resumed.rows == whole.rows
    assert resumed.details == whole.details
    answers, verdicts = (keys(tmp_path / "broken" / f"{name}.jsonl") for name in ("answers", "verdicts"))
    assert len(answers) == len(set(answers)) == len(keys(tmp_path / "whole" / "answers.jsonl"))
    assert len(verdicts) == len(set(verdicts)) == len(keys(tmp_path / "whole" / "verdicts.jsonl"))
    assert len(server.asked) == len(verdicts) + 1
    log_likelihoods = len(answers) - sum(given)
    assert log_likelihoods > 0  # the other answers were each generated once
    assert sum(given) == sum(isinstance(json.loads(line)["answer"], str) for line in _generated(tmp_path / "broken"))


def _generated(folder):
    """The lines of answers, without the log-likelihoods, which are pairs of numbers."""
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not re.fullmatch(r"\[-?[\d.e-]+, \d+\]", json.loads(line)["answer"])]


def test_clips_and_judge_are_missed_before_any_work(misbehave, steering, tmp_path):
    with pytest.raises(UserError, match=r"nowhere' holds no finished audio shards"):
        steering("http://127.0.0.1:9/v1", audio=tmp_path / "nowhere")
    with pytest.raises(
        UserError, match="the task 'sad to happy' has no clips: give MeasureSteering or the task `audio`"
    ):
        steering("http://127.0.0.1:9/v1", audio=None)
    with pytest.raises(UserError, match="cannot be reached"):
        steering("http://127.0.0.1:9/v1")


def test_no_group_of_clips_is_on_both_sides_of_the_choice(cell, tmp_path):
    write_clips(tmp_path / "measured", range(4), group=lambda i: "ann" if i < 2 else None)
    write_clips(tmp_path / "choice", range(6), group=lambda i: ["ann", "bob", None][i % 3])
    write_clips(tmp_path / "ann", range(3), group=lambda i: "ann")

    def split(measured, choice):
        steering = MeasureSteering(tasks=TASKS, audio=tmp_path / measured, selection=tmp_path / choice)
        return steering._splits(TASKS[0], _read_split)

    selection, measured, num_left_out = split("measured", "choice")
    assert [clip.group for clip in selection.clips] == ["bob", None, "bob", None]
    assert (len(measured.clips), num_left_out) == (4, 2)
    for audio, choice in (("measured", "ann"), ("measured", "measured"), ("measured", "choice/../measured")):
        with pytest.raises(
            UserError, match=r"are the same or of the same groups \(speakers\) as those of .*`selection`"
        ):
            split(audio, choice)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_leaves_no_clip_to_choose_or_to_measure_on_is_refused(tmp_path, share):
    write_clips(tmp_path, range(4), group=lambda i: f"speaker {i % 2}")
    steering = MeasureSteering(tasks=TASKS, audio=tmp_path, selection_share=share)
    with pytest.raises(UserError, match=rf"sets {4 * int(share)} of the 4 clips .* aside .*, of 2 groups .*: give"):
        steering._splits(TASKS[0], _read_split)


def test_the_first_untrained_dictionary_is_ranked_and_no_other_baseline(cell):
    labels = ("e2", "e2-untrained-0", "e2-untrained-1", "e2-tokens-0", "poly", "half-waves")
    assert [label for label in labels if _is_ranked(cell.run.cell(1, label))] == ["e2", "e2-untrained-0"]
    figures = {name: {} for name in ("steered", "steered, by effect", "Rand. Feats.", "Rand. directions")}
    rows = list(MeasureSteering._rows(TASKS[0], Measured(figures, {}), cell.run.cell(1, "e2-untrained-0")))
    assert [(row.method, row.expansion) for row in rows] == [
        ("Untrained SAE", 2),
        ("Untrained SAE, by effect", 2),
        ("Untrained SAE, Rand. Feats.", 2),
        ("Untrained SAE, Rand. directions", None),
    ]


@pytest.mark.slow
def test_tasks_may_have_clips_of_their_own_and_the_choice_others(misbehave, steering, cell, tmp_path):
    write_clips(tmp_path / "choice", range(24, 48))
    own = [
        SteeringTask(
            "sad", "happy", "happy or sad", ["happy", "sad"], "a happy man", audio=str(cell.run.audio("steer"))
        )
    ]
    result = steering(misbehave(then="coin").base_url, tasks=own, audio=None, selection=tmp_path / "choice", judge=None)
    assert {row.method for row in result.rows} == METHODS
    assert result.details["tasks"]["sad to happy"]["num_clips"] == 24
    assert result.choices["judge"] == "exact match of the answer's class"
    assert "Judge: exact match" in notes.steering([result])[0]


def test_without_tasks_nothing_is_written(steering, tmp_path):
    assert steering("http://127.0.0.1:9/v1", tasks=[]) is None
    run = Run(tmp_path / "first")
    assert not run.answers.exists()
    assert not run.cell(1, 2).result_path("steering").exists()


@pytest.mark.slow
def test_the_papers_preset_measures_its_four_shifts(misbehave, cell, tiny_audiollm, tiny_clap, tmp_path, monkeypatch):
    generate = AudioLLM.generate  # random weights would talk on to the end
    monkeypatch.setattr(AudioLLM, "generate", lambda self, p, max_new_tokens: generate(self, p, max_new_tokens=2))
    rng = np.random.default_rng(1)
    known = {
        "iemocap-emotion": [{"emotion": e} for e in ("neutral", "sad", "happy", "excited", "frustrated")] * 3,
        "voxceleb1-gender": [{"gender": g} for g in ("female", "male")] * 4,
    }
    for task, labels in known.items():
        noise = (0.2 * rng.standard_normal(6000).astype(np.float32) for _ in labels)
        clips = (Clip(f"{task}-{i:04d}", x, 16000, task, **labels[i]) for i, x in enumerate(noise))
        write_audio_shards(clips, tmp_path / "audio" / task)
    shutil.copytree(cell.folder, tmp_path / "layer-1/e2")
    TopKSAE(32, 64, k=16).save_pretrained(tmp_path / "layer-1/e2/sae")  # up to 16 features are set at once
    server = misbehave(then="coin")
    facts = {"out": tmp_path, "expansion": 2, "activations": cell.run.activations("probe")}
    facts |= {"model": tiny_audiollm, "clap": tiny_clap, "d_in": 32, "layer": 1, "evaluation": "null"}
    facts |= {"judge_endpoint": server.base_url, "num_draws": 2, "seed": 8}  # of which there are clips to choose on
    given = [f"--run.{name}={value}" for name, value in facts.items()]
    main(["test", "--config", str(CONFIGS / "paper" / "steer.yaml"), *given, "--trainer.accelerator=cpu"])
    result = Result.load(tmp_path / "layer-1/e2/steering.json")
    shifts = [("neutral", "happy"), ("sad", "happy"), ("happy", "angry"), ("female", "male")]
    assert list(dict.fromkeys((row.source, row.target) for row in result.rows)) == shifts
    ours = [row for row in result.rows if row.method == "AR&D"]
    truth = {(row.source, row.target): row.figures["sensitivity_of_truth"].n for row in ours}
    assert truth["neutral", "happy"] <= 3  # `excited` is a class of its own
    assert truth["female", "male"] <= 4
    measured = sum(not is_selection(f"iemocap-emotion-{i:04d}", 0.1, 8) for i in range(15))
    assert result.details["tasks"]["neutral to happy"]["num_clips"] == measured
    assert result.choices["judge"] == "meta-llama/Meta-Llama-3-70B-Instruct"
    assert {body["model"] for body in server.asked} == {"meta-llama/Meta-Llama-3-70B-Instruct"}
    assert {body["temperature"] for body in server.asked} == {0}
    assert any("happiness or happy\n" in body["messages"][0]["content"] for body in server.asked)
    assert len(keys(tmp_path / "verdicts.jsonl")) == len(server.asked)
