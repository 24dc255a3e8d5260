"""Make the table of model families from the tests that cover them: ``python -m experiments.families``."""

import argparse
import subprocess
import sys
import textwrap
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import torch
from transformers import (
    ASTFeatureExtractor,
    AutoConfig,
    ClapFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from ard.audiollm import AudioLLM, AudioPrompter
from ard.audiollm.encoders import encoder_layers
from ard.audiollm.families import FAMILIES

TESTS = "tests/audiollm/test_families.py"
PROPERTIES = {
    "capture": "captured layers equal `output_hidden_states` at the same depth",
    "mask": "the audio-token mask marks the placeholders: another sound changes the input of layer 0 there only",
    "batch": "a left-padded batch equals its clips one by one, at every layer",
    "generate": "answers are the same in a batch, one by one, and without a cache",
    "intervene": "an intervention that changes nothing leaves every bit; one on the prompt, and one on every step, "
    "answers alike in a batch, one by one, and without a cache",
    "no_op": "`steer` with the error kept and no feature set leaves every bit of the output, at every layer and at two "
    "at once; with features set it does not",
    "steered_batch": "with features of an SAE set, a left-padded batch equals its clips one by one, at every layer and "
    "in the answers, for all positions and phases, with and without the error",
    "steered_cache": "with features set, answers without a cache are the same: greedy, by beam search, and drawn",
    "hooks": "no hook is left behind, also after an exception in the block or in the middle of a pass",
}
PAGE = """# Families of models

Made by `python -m experiments.families` from the run of `{tests}`,
on tiny random models of the real classes with their real processors, transformers {version}. Trained checkpoints were
not run.

{properties}

{table}

- Voxtral takes sound in windows of 30 s and Gemma 3n in a single one. Both give every window its full number of audio
  tokens (375 and 188). Those after the end of a clip stand for silence: they can be steered, and are left out of
  activation shards.
- Audio Flamingo 3, Music Flamingo and GLM-ASR take a long clip in several windows, up to 10 minutes and more in all.
  Only the Flamingos' encoder layers can be captured, and only for clips of one window.
- Voxtral needs mistral-common; Granite Speech needs torchaudio, and peft for its audio adapter; both Omnis and
  Phi-4-multimodal need torchvision; Gemma 3n needs torchvision and timm.
- Phi-4-multimodal has a speech adapter that transformers does not load by itself: merge it into the folder first.
- Qwen3-ASR's template has no place for a user's text: the question goes into the system's turn.
- Only the thinker of an Omni checkpoint is loaded.

Other models that have an audio token are tried in the plain way. Layers that are not the decoder's are named by their
path, as in `load_audiollm("Qwen/Qwen2-Audio-7B-Instruct", layers_path="audio_tower.layers")`; of these, only encoders
like Whisper's can be captured.

## Audio encoders

Models that hear and do not answer: `ard run --model openai/whisper-base`. What needs answers (captions by the model,
steering) is left out of their runs. The residual stream after every layer is captured at the positions that stand for
sound, in order of time; where a spectrogram is taken for a picture, the bands of a moment follow one another, from low
to high, and each is a token. Figures are those of transformers' default configuration of each type, which is that of
the first model published (of Whisper, of `tiny`); wider and deeper ones have the same tokens.

{encoders}

- *Default*: the longest list of the encoder's own layers, which is the only one, except in CLAP: each of its stages is
  a list, in which the picture's sides are half as long as before, and the width twice as large. The default is the
  stage with most layers; `--layers_path audio_model.audio_encoder.layers.3.blocks` is the last one.
- *Padding is sound*: Whisper and AST always compute their whole window, and have no mask: what follows the clip is
  part of what they compute, as when they were trained. Its tokens are left out. `--window clip` computes only what is
  there (with the first positions of the window): that is faster for short clips, and another model, by whose name the
  manifest says so. CLAP repeats a clip until the window is full; the tokens of its first time are kept.
- *Masked*: clips of like length are batched, and what pads them is masked: a clip's activations are those that it has
  alone, to rounding.
- *Alone*: models with `feat_extract_norm="group"` (wav2vec2-base, hubert-base, wavlm-base) normalise over the whole
  clip and were trained without a mask; transformers says to pad with zeros and to pass none, so that a clip's frames
  would depend on the longest one beside it. Here each clip is computed on its own. The large models
  (`feat_extract_norm="layer"`) are masked.
- wav2vec 2.0, HuBERT and WavLM have no window of their own: clips are cut at 30 s, since attention grows with the
  square of the length.
- Half-precision weights are computed in float32 on a CPU, as everywhere.
- Only weights in safetensors are read; where the hub has none for a model, load it once with transformers elsewhere and
  `save_pretrained` it.
"""
EXTRACTORS = {
    "whisper": WhisperFeatureExtractor,
    "wav2vec2": Wav2Vec2FeatureExtractor,
    "hubert": Wav2Vec2FeatureExtractor,
    "wavlm": Wav2Vec2FeatureExtractor,
    "audio-spectrogram-transformer": ASTFeatureExtractor,
    "clap": ClapFeatureExtractor,
    "clap_audio_model": ClapFeatureExtractor,
}


def outcome(case: ElementTree.Element) -> str:
    """Return how one test went: ``yes``, ``fails``, or why it does not count."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "**fails**"
    skipped = case.find("skipped")
    if skipped is None:
        return "yes"
    reason = skipped.get("message", "")
    if skipped.get("type") == "pytest.xfail":
        return f"no: {reason}"
    return "not applicable" if reason.startswith("not applicable") else f"not run: {reason}"


def table(junit: str) -> str:
    """Return the table of a test run: a row for each family, in the order of the run, a column for each property.

    A property that no test of a family reports on is shown as missing.

    Raises:
        ValueError: if the run has no such tests.
    """
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for case in ElementTree.fromstring(junit).iter("testcase"):
        name, _, family = case.get("name", "").removeprefix("test_").removesuffix("]").partition("[")
        if name in PROPERTIES:
            rows[family][name] = outcome(case)
    if not rows:
        raise ValueError(f"the run of {TESTS} reports on no family: run pytest on it to see why")
    lines = [["family", *PROPERTIES], ["---"] * (1 + len(PROPERTIES))]
    lines += [
        [family, *(outcomes.get(name, "**missing**") for name in PROPERTIES)] for family, outcomes in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def encoder_table() -> str:
    """Return the table of the audio encoders, from their classes without weights."""
    columns = ["type", "default layers", "width", "window", "tokens a second", "in a batch"]
    lines = [columns, ["---"] * len(columns)]
    for name, extractor in EXTRACTORS.items():
        family, config = FAMILIES[name], AutoConfig.for_model(name)
        with torch.device("meta"):
            network = getattr(family.model_class, "from_config", family.model_class)(config)
        model = AudioLLM(network, AudioPrompter(extractor(), config, family), name)
        encoder, lists = model.prompter.encoder, encoder_layers(network)
        assert encoder is not None
        path = next(path for path, layers in lists.items() if layers is model.layers)
        batch = "alone" if encoder.alone else "padding is sound" if encoder.fills else "whole window"
        if name in ("wav2vec2", "hubert", "wavlm"):
            batch = f"{batch}; large models masked"
        tokens = f"{1 / encoder.token_s:.4g}"
        lines.append(
            [f"`{name}`", f"`{path}`, {len(model.layers)}", str(model.d_in), f"{encoder.window_s:g} s", tokens, batch]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run the tests and write the page; exit as pytest does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/families.md"))
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", TESTS, "--junitxml", str(junit)]
        run = subprocess.run(command, check=False)
        found = table(junit.read_text(encoding="utf-8"))
    properties = "\n".join(
        textwrap.fill(f"- {name}: {meaning}", 120, subsequent_indent="  ") for name, meaning in PROPERTIES.items()
    )
    args.out.write_text(
        PAGE.format(
            tests=TESTS,
            version=version("transformers"),
            properties=properties,
            table=found,
            encoders=encoder_table(),
        ),
        encoding="utf-8",
    )
    sys.exit(run.returncode)


if __name__ == "__main__":
    main()
