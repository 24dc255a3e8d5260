"""What an encoder's run will cost: tokens and work are those of its real classes."""

from pathlib import Path

import numpy as np
import pytest

from ard.activations import read_manifest
from ard.audio import SyntheticCorpus, write_audio_shards
from ard.audiollm import load_audiollm
from ard.audiollm.families import FAMILIES
from ard.cli import main
from ard.plan import plan
from ard.plan.encoders import EncoderModel
from ard.plan.models import ENCODERS
from ard.types import Clip, UserError
from tests.audiollm.families import encoders
from tests.audiollm.families.whisper import whisper
from tests.plan.test_cost import counted
from tests.plan.test_planner import CONFIGS, ON, facts_of, stages


def test_the_types_are_those_that_are_only_heard_with():
    assert sorted(name for name, family in FAMILIES.items() if family.encoder) == list(ENCODERS)


@pytest.mark.parametrize(
    ("build", "window"),
    [
        (whisper, None),
        (whisper, "clip"),
        (encoders.wav2vec2, None),
        (encoders.wavlm_large, None),
        (encoders.ast, "clip"),
        (encoders.clap_audio, None),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_tokens_and_work_are_those_of_a_capture(tmp_path, build, window):
    build(tmp_path)
    planned, model = EncoderModel(str(tmp_path), window=window), load_audiollm(str(tmp_path), window=window)
    model.model.requires_grad_(False)  # the counter fails at a weight norm otherwise
    rate_hz = model.prompter.sample_rate_hz
    lengths = np.array([round(length_s * rate_hz) for length_s in (0.01, 0.4, 0.77, 1.3, 2.5)])
    clips = [Clip("c", np.full(length, 0.1, np.float32), rate_hz, "constant") for length in lengths]
    batches = [model.prompter([clip]) for clip in clips]  # the features themselves are not counted
    for deepest in (0, 1):
        work = sum(counted(lambda b=batch, d=deepest: model.capture(b, [d])) for batch in batches)
        assert planned.flops(lengths, deepest) == pytest.approx(work, rel=0.03)
    assert planned.num_tokens(lengths).tolist() == [len(x) for x in model.capture(clips, [0])[0]]
    assert planned.num_weights == sum(weight.numel() for weight in model.model.parameters())
    assert (planned.d_in, planned.num_layers, planned.dtype) == (model.d_in, len(model.layers), "float32")


@pytest.mark.slow
def test_an_encoders_run_is_as_planned(tmp_path):
    (tmp_path / "model").mkdir()
    encoders.clap(tmp_path / "model")
    facts = {"out": str(tmp_path), "model": str(tmp_path / "model"), "d_in": 16, "layers": [1], "layer": 1, "k": 4}
    facts["audio"] = {"probe": [{"source": "synthetic", "split": "probe", "seed": 3, "num_clips": 5}]}
    made = plan(facts_of("demo", **facts, evaluation=None, expansions=[2], expansion=2), **ON)
    write_audio_shards(SyntheticCorpus("probe", 5, seed=3), tmp_path / "audio" / "probe")
    config = str(CONFIGS / "demo" / "extract.yaml")
    given = [f"--run.{name}={facts[name]}" for name in ("out", "model", "layers")]
    main(["extract", "--config", config, "--data.num_workers=0", *given])
    manifest = read_manifest(tmp_path / "activations")
    assert (made.num_clips, made.num_tokens) == (len(manifest.clip_ids), manifest.num_tokens)
    (shards,) = stages(made, "activation shards")
    assert shards.num_bytes == sum(path.stat().st_size for path in Path(tmp_path / "activations").glob("*/*.tar"))
    assert not stages(made, "captions") + stages(made, "steering")
    assert "no captions: nothing in the preset answers" in made.assumptions
    with pytest.raises(UserError, match=r"d_in 128 is not the width of .*, which is 16: give --run.d_in 16"):
        plan(facts_of("demo", **facts | {"d_in": 128}), **ON)
    steered = plan(facts_of("demo", model=facts["model"], d_in=16, layers=[1], layer=1), **ON)
    assert "no steering: an encoder answers nothing" in steered.assumptions
