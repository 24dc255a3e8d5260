# /// script
# requires-python = ">=3.10,<3.12"
# dependencies = ["msclap==1.3.4", "numpy<2", "safetensors", "soundfile"]
# ///
"""Embed clips and texts by Microsoft's CLAP of 2023, which the paper cites and which cannot live beside transformers 5.

It runs in an environment of its own, and downloads the weights: `uv run experiments/msclap/embed.py clips
runs/paper/audio/probe runs/paper/msclap`, then the preset with `--run.clap computed:runs/paper/msclap`. Whenever that
stops for texts that are not embedded yet, `uv run experiments/msclap/embed.py texts runs/paper/msclap`.
"""

import argparse
import io
import json
import logging
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from msclap import CLAP
from safetensors import safe_open
from safetensors.numpy import save_file

WINDOW_S = 7  # longer clips are cropped at random by the package: here they are cut into equal windows, as in ard
TEXTS_PER_BATCH = 256


def embed_clips(model: CLAP, shards: list[Path], out: Path) -> None:
    """Embed the clips of audio shards."""
    ids, embeddings = [], []
    for shard in shards:
        with tarfile.open(shard) as tar, tempfile.TemporaryDirectory() as scratch:
            for member in tar:
                file = tar.extractfile(member)
                if file and member.name.endswith(".flac"):
                    channels, rate_hz = soundfile.read(io.BytesIO(file.read()), always_2d=True)
                    waveform = channels.mean(axis=1)
                    windows = np.array_split(waveform, max(1, -(-len(waveform) // (WINDOW_S * rate_hz))))
                    paths = [f"{scratch}/{number}.wav" for number in range(len(windows))]
                    for path, window in zip(paths, windows, strict=True):
                        soundfile.write(path, window, rate_hz, subtype="FLOAT")
                    heard = model.get_audio_embeddings(paths, resample=True)
                    ids.append(member.name[: -len(".flac")])
                    embeddings.append(heard.float().cpu().numpy().mean(axis=0))
        logging.info("%s: %d clips so far", shard, len(ids))
    save(out / "clips.safetensors", ids, np.stack(embeddings))


def embed_texts(model: CLAP, out: Path) -> None:
    """Embed the texts that ard asked for, beside those that are there."""
    path, names, known = out / "texts.safetensors", [], []
    if path.is_file():
        with safe_open(str(path), framework="np") as stored:
            names, known = json.loads(stored.metadata()["names"]), [stored.get_tensor("embeddings")]
    texts = [
        text
        for text in json.loads((out / "missing.json").read_text(encoding="utf-8"))["texts"]
        if text not in set(names)
    ]
    for start in range(0, len(texts), TEXTS_PER_BATCH):
        known.append(model.get_text_embeddings(texts[start : start + TEXTS_PER_BATCH]).float().cpu().numpy())
    save(path, names + texts, np.concatenate(known))
    logging.info("%d texts, %d in all", len(texts), len(names) + len(texts))


def save(path: Path, names: list, embeddings: np.ndarray) -> None:
    """Write what `computed:` reads, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # ard is not installed here
    save_file({"embeddings": np.ascontiguousarray(embeddings, np.float32)}, partial, {"names": json.dumps(names)})
    os.replace(partial, path)


def main() -> None:
    """Embed clips or texts."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    clips = commands.add_parser("clips", help="embed the clips of audio shards")
    clips.add_argument("audio", type=Path, help="folder of audio shards")
    texts = commands.add_parser("texts", help="embed the texts in OUT/missing.json")
    for command in (clips, texts):
        command.add_argument("out", type=Path, help="folder of the embeddings")
        command.add_argument("--cuda", action="store_true", help="run on a GPU")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = CLAP(version="2023", use_cuda=args.cuda)
    if args.command == "clips":
        embed_clips(model, sorted(args.audio.glob("*.tar")), args.out)
    else:
        embed_texts(model, args.out)


if __name__ == "__main__":
    main()
