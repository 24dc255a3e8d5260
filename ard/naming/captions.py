"""Captions of clips, each made once per run."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import soundfile

from ard.audio import StoredClips
from ard.audiollm import load_audiollm
from ard.naming.answers import Answers
from ard.naming.chat import Chat, Content
from ard.naming.final import final_words
from ard.naming.prompts import CAPTION_PROMPT
from ard.ranks import Ranks
from ard.run import write_parquet
from ard.types import Clip

Captioner = Callable[[Sequence[Clip]], Sequence[str | None]]  # None for a clip without a caption


def audiollm_captioner(model: str, device: str, max_new_tokens: int) -> Captioner:
    """Load an AudioLLM that captions clips in this process."""
    loaded = load_audiollm(model, device=device)
    return lambda clips: loaded.generate(clips, [CAPTION_PROMPT] * len(clips), max_new_tokens)


def chat_captioner(chat: Chat) -> Captioner:
    """Return a captioner that uses a chat model with audio input, at an endpoint."""
    return lambda clips: [reply.text for reply in chat([spoken(clip) for clip in clips], "captions")]


def spoken(clip: Clip) -> Content:
    """Return a clip and the paper's prompt as message parts."""
    return [sound_part(clip), {"type": "text", "text": CAPTION_PROMPT}]


def sound_part(clip: Clip) -> dict[str, Any]:
    """Return a clip as a message part: 16-bit WAV at its own sample rate."""
    file = io.BytesIO()
    soundfile.write(file, clip.waveform, clip.sample_rate_hz, format="WAV", subtype="PCM_16")
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}}


def caption_clips(
    clip_ids: Sequence[str],
    audio: Path,
    path: Path,
    model: str,
    load: Callable[[], Captioner],
    clips_per_batch: int,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> dict[str, str]:
    """Return the captions of clips, from the file or else by the model, which is loaded only if some are missing.

    Clips of like length share a batch, the longest first. A clip for which the model returns nothing has no caption,
    and is tried again by the next run.

    Args:
        clip_ids: the clips.
        audio: folder of the audio shards that hold them.
        path: where captions are kept (parquet); those of a run that was stopped are in a file beside it, so that none
            but those of the last batch are paid for twice.
        model: the model's name, under which captions are kept.
        load: loads the model.
        clips_per_batch: clips captioned at once.
        ranks: the processes that share the batches; the first makes this call, the others follow by
            :func:`caption_batches`.
    """
    captions = _kept(path)
    missing = {clip_id for clip_id in clip_ids if (model, clip_id) not in captions}
    if missing:
        durations_s = StoredClips(audio).durations_s
        ordered = sorted(
            missing & durations_s.keys(), key=lambda clip_id: (durations_s[clip_id], clip_id), reverse=True
        )
        batches = [ordered[start : start + clips_per_batch] for start in range(0, len(ordered), clips_per_batch)]
        ranks.together(partial(caption_batches, path, model, load, ranks), audio, batches)
        captions = _kept(path)
        rows = ({"id": clip_id, "caption": text, "model": by} for (by, clip_id), text in sorted(captions.items()))
        write_parquet(rows, path)
        _unfinished(path).unlink(missing_ok=True)
    return _cleaned(captions, model)


def caption_batches(
    path: Path, model: str, load: Callable[[], Captioner], ranks: Ranks, audio: Path, batches: Sequence[Sequence[str]]
) -> None:
    """Caption this rank's share of batches of clips; keep each beside ``path`` when it is done."""
    captioner, clips, kept = load(), StoredClips(audio), Answers(_unfinished(path))
    for batch in ranks.share(batches, "captions"):
        heard = list(clips(batch))
        for clip, caption in zip(heard, captioner(heard) if heard else [], strict=True):
            if caption:
                kept.keep(json.dumps([model, clip.id]), caption)


def read_captions(path: Path, model: str) -> dict[str, str]:
    """Return the captions that a model has made so far, by clip; a clip without a caption is left out."""
    return _cleaned(_kept(path), model)


def _unfinished(path: Path) -> Path:
    """Return the file to which captions are appended until all of them are there."""
    return path.with_suffix(".jsonl")


def _kept(path: Path) -> dict[tuple[str, str], str]:
    """Return the captions that are on disk, by model and clip."""
    rows = pq.read_table(path).to_pylist() if path.is_file() else []
    kept = {(row["model"], row["id"]): row["caption"] for row in rows}
    unfinished = Answers(_unfinished(path))
    unfinished.read()
    for key, caption in unfinished.known.items():
        model, clip_id = json.loads(key)
        kept[model, clip_id] = caption
    return kept


def _cleaned(captions: Mapping[tuple[str, str], str], model: str) -> dict[str, str]:
    cleaned = {clip_id: final_words(caption) for (by, clip_id), caption in captions.items() if by == model}
    return {clip_id: caption for clip_id, caption in cleaned.items() if caption}
