"""Every stage through its own command on a pretended GPU, with the demo's YAML files, tiny models and few clips."""

import pytest

from ard.audio import SyntheticCorpus, write_audio_shards
from ard.cli import main
from ard.presets import CONFIGS
from tests.device.pretend import pretend_cuda

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def facts(tiny_audiollm, tiny_clap, tiny_roberta, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    for split, speech_share in {"probe": 0.3, "eval": 0.3, "steer": 1.0, "steer-select": 1.0}.items():
        corpus = SyntheticCorpus(split, num_clips=12, speech_share=speech_share)
        write_audio_shards(corpus, out / "audio" / split, 12)
    models = {"model": tiny_audiollm, "clap": tiny_clap, "bertscore": tiny_roberta}
    sizes = {"d_in": 32, "k": 4, "layer": 2, "layers": "[0,2]", "num_selected": 12, "expansion": 2}
    return [f"--run.{name}={value}" for name, value in ({"out": out} | models | sizes).items()], out


def test_every_stage_runs_on_the_device(facts):
    settings, out = facts

    def stage(command, config, *more):
        with pretend_cuda() as waits:
            main([command, "--config", str(CONFIGS / "demo" / f"{config}.yaml"), *settings, *more])
            return list(waits)

    for more in ((), ("--run.split=eval", f"--run.activations={out}/activations-eval")):
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
