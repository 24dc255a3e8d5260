"""Every stage through its own command on a pretended GPU, with the demo's YAML files, tiny models and few clips."""

import pytest

from ard.audio import SyntheticCorpus, write_audio_shards
from ard.cli import main
from ard.presets import CONFIGS
from ard.run import Run
from tests.device.pretend import pretend_cuda

pytestmark = pytest.mark.slow

RESULTS = (
    "monosemanticity",
    "matching",
    "probes",
    "naming",
    "name_axes",
    "timing",
    "modality",
    "loss_recovered",
    "steering",
)


@pytest.fixture(scope="module")
def facts(tiny_audiollm, tiny_clap, tiny_roberta, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    for split in ("probe", "eval", "steer", "steer-select"):
        corpus = SyntheticCorpus(split, num_clips=12, speech_share=1.0)  # every label in clips enough to be timed
        write_audio_shards(corpus, out / "audio" / split, 12)
    write_audio_shards(SyntheticCorpus("made", num_clips=12, every_label=True), out / "audio" / "made", 12)
    models = {"model": tiny_audiollm, "clap": tiny_clap, "bertscore": tiny_roberta}
    sizes = {"d_in": 32, "k": 4, "layer": 2, "layers": "[0,2]", "num_selected": 12, "expansion": 2}
    return [f"--run.{name}={value}" for name, value in ({"out": out} | models | sizes).items()], out


def test_every_stage_runs_on_the_device(facts):
    settings, out = facts

    def stage(command, config, *more):
        with pretend_cuda() as waits:
            main([command, "--config", str(CONFIGS / "demo" / f"{config}.yaml"), *settings, *more])
            return list(waits)

    for more in (
        (),
        *((f"--run.split={split}", f"--run.activations={out}/activations-{split}") for split in ("eval", "made")),
    ):
        waits = stage("extract", "extract", *more)
        assert (
            len([wait for wait in waits if "audiollm.py" in wait.place]) <= 8
        )  # one batch of twelve clips, two layers
    waits = stage("fit", "fit", "--trainer.max_steps=30")
    assert [wait for wait in waits if wait.place.startswith(("sae/", "activations/"))] == []
    assert len(waits) < 80  # at its end, weights and Adam's states are copied to the host
    stage("test", "test")
    stage("test", "quality")
    stage("test", "steer")
    written = {path.name for path in Run(out).cell(2, 2).folder.iterdir()}
    assert written >= {f"{name}.json" for name in RESULTS}
