"""What a preset costs, against the paper's figures and a small real run, and what cannot be planned."""

import io
import re
import shutil
import time
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from rich.console import Console

from ard.activations import read_manifest
from ard.audio import SyntheticCorpus, write_audio_shards
from ard.audiollm import load_audiollm
from ard.cli import main
from ard.plan import plan, render_plan
from ard.plan.gpus import GPUS
from ard.plan.models import PUBLISHED
from ard.plan.render import disk_verdict
from ard.sae import SAETraining
from ard.types import UserError
from tests.plan.test_cost import QUIET, Tokens, counted

CORPORA = {
    "probe": [
        {"num_clips": 108317, "duration_s": 10.0, "sample_rate_hz": 32000},
        {"num_clips": 10039, "duration_s": 4.5, "sample_rate_hz": 16000},
    ],
    "eval": [{"num_clips": 10231, "duration_s": 9.8, "sample_rate_hz": 44100}],
}
CONFIGS = Path(__file__).parent.parent.parent / "configs"
ON = {"gpu": "H100", "utilisation": 0.4, "cores": 8, "disk": Path("/")}


def facts_of(preset, **changes):
    """The facts of a preset with its resolved stage files, as `ard plan` puts them together."""
    files = {name: OmegaConf.load(CONFIGS / preset / f"{name}.yaml") for name in ("extract", "fit", "test", "steer")}
    run = OmegaConf.merge(OmegaConf.load(CONFIGS / preset / "run.yaml"), changes)
    resolved = OmegaConf.to_container(OmegaConf.create({"run": run, **files}), resolve=True)
    return {**resolved.pop("run"), **resolved}


def stages(made, name):
    return [stage for stage in made.stages if stage.stage == name]


@cache
def resolved_paper():
    return facts_of("paper", corpora=CORPORA)


def paper_facts():
    return deepcopy(resolved_paper())


@pytest.fixture(scope="module")
def paper():
    return plan(paper_facts(), **ON)


@pytest.mark.slow
def test_the_papers_preset_has_the_figures_of_the_paper(paper):
    assert paper.num_clips == 118356
    assert paper.num_tokens == 108317 * 250 + 10039 * 112
    assert paper.num_tokens == pytest.approx(28.2e6, rel=0.001)
    assert paper.bytes_per_layer == pytest.approx(231e9, rel=0.005)
    assert paper.epochs == pytest.approx(14.5, abs=0.05)
    trainings = stages(paper, "SAE training")
    assert [stage.part for stage in trainings] == [f"layer {layer}, e 4, 8, 16" for layer in (5, 16, 26)]
    assert {(stage.num_tokens, stage.read_bytes) for stage in trainings} == {(409_600_000, 409_600_000 * 4096 * 2)}
    (steering,) = stages(paper, "steering")
    assert steering.num_clips > 1004 + 4874


@pytest.mark.slow
def test_hours_are_those_of_the_figures_on_the_data_sheet(paper):
    extraction = stages(paper, "extraction")[0]
    assert extraction.gpu_hours == pytest.approx(extraction.flops / (989e12 * 0.4) / 3600)
    (embedding,) = stages(paper, "CLAP embedding")
    assert embedding.gpu_hours == pytest.approx(embedding.flops / (67e12 * 0.4) / 3600)
    training = stages(paper, "SAE training")[1]
    assert training.precision == "bfloat16"
    assert training.gpu_hours > training.flops / (989e12 * 0.7) / 3600
    assert training.hours == max(training.gpu_hours, training.cpu_hours, training.disk_hours)
    (captions,) = stages(paper, "captions")
    assert captions.hours == pytest.approx(captions.gpu_hours + captions.cpu_hours + captions.disk_hours)


def one_training(precision="bf16-mixed", expansions=(8,), gpu="H200", **settings):
    """The training of one layer of the paper's preset, with another precision."""
    facts = paper_facts()
    facts |= {"layers": [26], "expansions": list(expansions), "expansion": expansions[0], "evaluation": None}
    facts["fit"]["trainer"]["precision"] = precision
    facts["fit"]["model"]["init_args"].update(settings)
    (training,) = stages(plan(facts, [4], **{**ON, "gpu": gpu}), "SAE training")
    return training


def test_a_step_is_in_the_arithmetic_of_its_settings():
    tf32 = one_training("32-true", float32_products="high")
    bf16, exact = one_training(), one_training("32-true")
    assert [one.precision for one in (bf16, tf32, exact)] == ["bfloat16", "tf32", "float32"]
    assert bf16.gpu_s < tf32.gpu_s < exact.gpu_s


def test_gathered_rows_are_traffic_and_no_work():
    """At e 16 gathering is faster than dense products on an H200: only the encoder's product is work."""
    tokens, d_in, d_sae = 409_600_000, 4096, 65536
    gathering = one_training(expansions=(16,))
    assert gathering.flops == tokens * 2 * d_in * d_sae
    gathered = tokens * 4 * 250 * d_in * 2
    of_weights = 42 * (2 * d_in * d_sae + d_sae + d_in) * 10**5
    assert gathering.traffic_bytes == gathered + of_weights + tokens * 18 * 2 * d_sae
    dense = one_training(expansions=(4,))
    assert dense.flops == tokens * 5 * 2 * d_in * 4 * d_in


def test_side_by_side_the_activations_are_read_once():
    alone = [one_training(expansions=(e,)) for e in (4, 8, 16)]
    together = one_training(expansions=(4, 8, 16))
    assert together.read_bytes == alone[0].read_bytes
    for of in ("flops", "traffic_bytes", "gpu_s"):
        assert getattr(together, of) == pytest.approx(sum(getattr(one, of) for one in alone))


def test_reading_takes_the_time_of_the_disk_and_hides_behind_the_gpu():
    training = one_training(gpu="H100")
    machine = plan(paper_facts(), (4,), **ON).machine
    local, nfs = (training.on(machine._replace(disk_gb_s=speed)) for speed in (3.0, 1.0))
    assert training.read_bytes / 1e9 / 3600 == pytest.approx(0.93, abs=0.01)
    assert 0.93 < nfs.disk_hours < 0.96  # checkpoints are written too
    assert (local.hours, nfs.hours) == (local.gpu_hours, nfs.disk_hours)
    assert (local.longest, nfs.longest) == ("GPU", "disk")


def test_clips_are_prepared_by_as_many_processes_as_there_are_workers_and_cores(paper):
    (embedding,), machine = stages(paper, "CLAP embedding"), paper.machine
    assert embedding.longest == "CPU"
    assert embedding.on(machine._replace(cores=2)).hours == pytest.approx(4 * embedding.hours)
    assert embedding.on(machine._replace(cores=64)).hours == pytest.approx(embedding.hours)
    per_clip_s = embedding.cpu_s / embedding.num_clips
    assert 0.01 < per_clip_s < 0.05  # FLAC, to 48 kHz, features


@pytest.mark.slow
def test_hours_follow_utilisation_and_gpu():
    facts = facts_of("demo", tasks=[])
    made, twice, slower = (plan(facts, **{**ON, **changes}) for changes in ({}, {"utilisation": 0.8}, {"gpu": "A100"}))
    for one, fast, slow in zip(*(stages(each, "extraction") for each in (made, twice, slower)), strict=True):
        assert fast.gpu_hours == pytest.approx(one.gpu_hours / 2)
        assert slow.gpu_hours == pytest.approx(one.gpu_hours * 67 / 19.5)  # the embedded model computes in float32


@pytest.mark.slow
def test_training_leaves_the_planned_bytes(tmp_path):
    changes = {"model": "embedded", "captioner": "embedded", "d_in": 128, "layers": [1], "k": 4, "expansions": [8]}
    changes |= {"layer": 1, "expansion": 8}
    (planned,) = stages(plan(facts_of("paper", corpora=CORPORA, **changes), **ON), "SAE training")
    module = SAETraining(128, 8, k=4)
    Trainer(max_steps=3, callbacks=[ModelCheckpoint(tmp_path, save_last=True)], **QUIET).fit(module, Tokens(128))
    module.sae.save_pretrained(tmp_path / "sae")
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert planned.num_bytes == pytest.approx(written, rel=0.02)


@pytest.fixture(params=["tiny", "embedded"])
def real_run(request, tmp_path, tiny_audiollm, tiny_clap):
    """A small run by the real commands, what was planned of it before and after its audio was there, and its FLOPs."""
    changes = {"out": str(tmp_path), "layers": [0, 2], "layer": 2, "seed": 3}
    changes["audio"] = {"probe": [{"source": "synthetic", "split": "probe", "seed": 3, "num_clips": 9}]}
    changes |= {"evaluation": None, "tasks": [], "expansions": [2, 4], "expansion": 2, "k": 4}
    if request.param == "tiny":
        changes |= {"model": tiny_audiollm, "clap": tiny_clap, "d_in": 32}
    before = plan(facts_of("demo", **changes), **ON)
    write_audio_shards(SyntheticCorpus("probe", 9, seed=3), tmp_path / "audio" / "probe")
    after = plan(facts_of("demo", **changes), **ON)
    given = {name: changes[name] for name in ("out", "d_in", "model") if name in changes} | {"layers": "[0,2]"}
    config = [
        "--config",
        str(CONFIGS / "demo" / "extract.yaml"),
        "--data.num_workers=1",
    ]  # features are made by a worker, which is not counted
    flops = counted(lambda: main(["extract", *config, *(f"--run.{name}={value}" for name, value in given.items())]))
    return SimpleNamespace(name=request.param, out=tmp_path, before=before, after=after, flops=flops, changes=changes)


@pytest.mark.slow
def test_a_small_real_run_is_as_planned(real_run):
    manifest = read_manifest(real_run.out / "activations")
    for made in (real_run.before, real_run.after):
        assert made.num_clips == len(manifest.clip_ids) == 9
        assert made.num_tokens == manifest.num_tokens
        for stage, layer in zip(stages(made, "activation shards"), (0, 2), strict=True):
            written = sum(path.stat().st_size for path in (real_run.out / "activations").glob(f"layer-{layer}/*.tar"))
            assert stage.num_bytes == written == made.bytes_per_layer
    (extraction,) = stages(real_run.after, "extraction")
    if real_run.name == "tiny":  # every clip fills its window of a second: no padding
        assert extraction.flops == real_run.flops
    else:
        model = load_audiollm()
        clips = SyntheticCorpus("probe", 9, seed=3)
        alone = [model.prompter([clip]) for clip in clips]
        assert extraction.flops == sum(counted(lambda b=batch: model.capture(b, [0, 2])) for batch in alone)
        assert extraction.flops <= real_run.flops


@pytest.mark.slow
def test_audio_is_bounded_before_it_is_there_and_known_after(real_run):
    written = sum(path.stat().st_size for path in (real_run.out / "audio" / "probe").glob("*.tar"))
    (bound,), (known,) = stages(real_run.before, "audio shards"), stages(real_run.after, "audio shards")
    assert written == known.num_bytes == known.present_bytes
    assert bound.num_bytes / 4 < written <= bound.num_bytes
    assert "clips of probe: made from the seed; FLAC as large as 16-bit PCM" in real_run.before.assumptions
    assert f"clips of probe: the audio shards in {real_run.out}/audio/probe" in real_run.after.assumptions
    assert real_run.before.missing_bytes - real_run.after.missing_bytes == bound.num_bytes
    finished = plan(facts_of("demo", **real_run.changes), **ON)
    assert real_run.after.missing_bytes - finished.missing_bytes == 2 * finished.bytes_per_layer


@pytest.mark.slow
def test_the_demo_is_planned_with_its_steering():
    made = plan(facts_of("demo", out="/nowhere/at/all"), **ON)
    (steering,) = stages(made, "steering")
    assert steering.part == "4 tasks"
    # all clips unsteered, with two questions; of the source class 12 clips in 6 trials of 18 methods (7 dictionaries by
    # names and by effect, 4 without one) and of 6 draws, all clips under each method and without clamp, and 12 in 6
    # draws of features and of directions, 6 doses of 5 methods and two questions, 7 at their settings, 2 ways back
    some = 12 * ((18 + 6) * 6 + 2 * 6 + 5 * 6 * 2 + 7 + 2)
    assert steering.num_clips == pytest.approx(2 * 480 + 3 * (19 * 80 + some) + 19 * 160 + some)
    assert "no steering: the preset has no tasks" in plan(facts_of("demo", tasks=[]), **ON).assumptions
    assert {stage.part for stage in stages(made, "audio shards")} == {"probe", "eval", "made", "steer-select", "steer"}


def test_only_a_namer_that_needs_captions_has_clips_captioned():
    facts = facts_of("demo")
    (settings,) = (
        callback["init_args"]
        for callback in facts["test"]["trainer"]["callbacks"]
        if callback["class_path"] == "ard.naming.NameConcepts"
    )
    for namer, has_captions in (("ConsensusNamer", True), ("VocabularyNamer", False), ("LabelNamer", False)):
        settings["namer"] = {"class_path": f"ard.naming.{namer}"}
        assert bool(stages(plan(facts, **ON), "captions")) == has_captions


@pytest.mark.parametrize(
    ("free_gb", "said"),
    [
        (2000, r"needs \d+ GB, /data/runs has 2,000 GB free: enough"),
        (500, r"needs \d+ GB, /data/runs has 500 GB free: not enough; one layer at a time fits \(\d+ GB\)"),
        (
            120,
            r"needs \d+ GB, /data/runs has 120 GB free: not enough; one layer at a time does not fit either \(\d+ GB\)",
        ),
    ],
)
def test_the_disk_gets_one_sentence(paper, free_gb, said):
    made = replace(paper, disk=Path("/data/runs"), free_bytes=free_gb * 10**9)
    assert re.fullmatch(said, disk_verdict(made))


@pytest.mark.slow
def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_its_parents(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: asked.append(folder) or SimpleNamespace(free=7))
    made = plan(facts_of("demo", tasks=[]), **{**ON, "disk": tmp_path / "a" / "b"})
    assert (asked, made.free_bytes) == ([tmp_path], 7)


def test_what_is_rendered_says_what_was_assumed(paper):
    said = shown(paper, 200)
    assert "On one H100, 8 cores, a disk of 3 GB/s" in said
    assert "118,356 probing clips, 28.2 M audio tokens, 231 GB of activations a layer" in said
    assert "an SAE's training sees them 14.5 times" in said
    assert "dimensions of Qwen/Qwen2-Audio-7B-Instruct: as published" in said
    assert "at most 104,096 names are made by a language model elsewhere" in said
    assert "as the preset states, all at its mean length: 108,317 of 10 s, 10,039 of 4.5 s" in said
    assert "GPU: SAE training needs at least 24.7 GB of 80 GB: enough" in said
    assert "SAEs train in bfloat16 (trainer.precision bf16-mixed in fit.yaml), those of a layer side by side" in said


def shown(made, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_plan(made))
    return console.export_text()


def test_the_first_screen_fits_80_columns_and_24_lines(paper):
    lines = shown(paper, 80).splitlines()
    end = next(place for place, line in enumerate(lines) if "What the GPU does" in line)
    assert end <= 24
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert not any("…" in line for line in lines)
    (probing,) = (line for line in lines[:end] if line.startswith("probing"))
    assert probing.split()[-1] == "GPU"
    assert "What would be faster:" in lines[:end]


@pytest.mark.slow
def test_stated_dimensions_go_before_published_ones():
    name = "Qwen/Qwen2-Audio-7B-Instruct"
    dimensions = {name: {**PUBLISHED[name], "text_config": {"hidden_size": 4096, "num_hidden_layers": 28}}}
    made = plan(facts_of("paper", corpora=CORPORA, dimensions=dimensions), **ON)
    assert any("Qwen2-Audio-7B-Instruct: the preset's" in assumption for assumption in made.assumptions)
    with pytest.raises(UserError, match=r"layer 29 does not exist in .* it has layers 0 to 27"):
        plan(facts_of("paper", corpora=CORPORA, dimensions=dimensions, layers=[29]), **ON)


def lacking(**changes):
    return facts_of("paper", **{"corpora": CORPORA, "out": "/nowhere", **changes})


@pytest.mark.parametrize(
    ("facts", "on", "said"),
    [
        (lacking(), {"gpu": "V100"}, r"GPU 'V100' is unknown: choose one of \['A100', 'H100'"),
        (lacking(), {"utilisation": 0.0}, "utilisation 0 is not a share: give one above 0 and up to 1"),
        (lacking(), {"utilisation": 1.5}, "utilisation 1.5 is not a share"),
        (lacking(), {"cores": 0}, "cores 0 is too few: give 1 or more"),
        (lacking(), {"disk_gb_s": 0.0}, "disk_gb_s 0 is not a speed: give 1 for NFS, 3 for a local NVMe disk"),
        (lacking(layers=[40]), {}, "layer 40 does not exist .* layers 0 to 31"),
        (lacking(layers=[]), {}, "`layers` is empty: name at least one"),
        (lacking(d_in=128), {}, "d_in 128 is not the width of 'Qwen/.*', which is 4096: give --run.d_in 4096"),
        (
            lacking(corpora=None),
            {},
            "the clips of split 'probe' are unknown: .*'/nowhere/audio/probe'.*"
            "Make them with `ard shards`, or add `corpora.probe`",
        ),
        (
            lacking(corpora={"probe": [{"num_clips": 3, "duration_s": 1.0}]}),
            {},
            "`corpora.probe` of the preset lacks 'sample_rate_hz'",
        ),
        (
            lacking(corpora={**CORPORA, "probe": [{"num_clips": 3, "duration_s": 0.01, "sample_rate_hz": 16000}]}),
            {},
            "the clips of split 'probe' have no audio tokens .*: give longer ones",
        ),
        (lacking(model="/nowhere/model"), {}, "the dimensions of model '/nowhere/model' cannot be read: give a local"),
        (
            lacking(dimensions={"Qwen/Qwen2-Audio-7B-Instruct": {"text_config": {}}}),
            {},
            r"cannot be read: .* state the content of its config.json \(with model_type\) under `dimensions`",
        ),
        (
            lacking(dimensions={"Qwen/Qwen2-Audio-7B-Instruct": {"model_type": "voxtral"}}),
            {},
            "is a voxtral: only a qwen2_audio can be planned",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_planned_is_refused(facts, on, said):
    with pytest.raises(UserError, match=said):
        plan(facts, **{**ON, **on})


def test_without_a_network_one_line_says_what_to_fetch(no_network):
    no_network()
    started = time.monotonic()
    with pytest.raises(
        UserError,
        match=r"^openai/whisper-base \(unknown size\) cannot be fetched from http://127.0.0.1:9 \(Connection "
        r"refused\), and .* does not have all of it: where there is a network, run `hf download openai/whisper-base`, "
        r"or give a local folder as `model` in the preset's run.yaml$",
    ):
        plan(facts_of("laptop"), **ON)
    assert time.monotonic() - started < 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "layers", "k", "fit", "clap"])
def test_a_preset_that_lacks_a_fact_is_refused(name):
    facts = facts_of("demo", tasks=[])
    del facts[name]
    with pytest.raises(UserError, match=f"the preset does not say '{name}': add it to its run.yaml"):
        plan(facts, **ON)


def test_a_preset_that_lacks_a_setting_is_refused():
    facts = facts_of("demo", tasks=[])
    del facts["fit"]["trainer"]["max_steps"]
    with pytest.raises(UserError, match=r"the preset's fit\.yaml does not say trainer\.max_steps: add it"):
        plan(facts, **ON)
    facts["steer"]["trainer"]["callbacks"].pop()
    with pytest.raises(UserError, match=r"the preset's steer\.yaml does not say MeasureSteering\.tasks: add it"):
        plan(facts, **ON)


@pytest.mark.slow
def test_gpus_are_named_as_people_write_them():
    for written, name in (("h100", "H100"), ("RTX 4090", "RTX4090"), ("rtx-4090", "RTX4090")):
        assert plan(facts_of("demo", tasks=[]), **{**ON, "gpu": written}).machine.gpu == GPUS[name]
