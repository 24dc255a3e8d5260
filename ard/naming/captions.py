"""Captions of clips, each made once per run."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import soundfile

from ard.audio import read_clips
from ard.audiollm import load_audiollm
from ard.console import Progress
from ard.naming.chat import Chat, Content
from ard.naming.final import final_words
from ard.naming.prompts import CAPTION_PROMPT
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
    """Return a clip and the paper's prompt as message parts; the audio is 16-bit WAV at its own sample rate."""
    file = io.BytesIO()
    soundfile.write(file, clip.waveform, clip.sample_rate_hz, format="WAV", subtype="PCM_16")
    sound = {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}
    return [{"type": "input_audio", "input_audio": sound}, {"type": "text", "text": CAPTION_PROMPT}]


def caption_clips(
    clip_ids: Sequence[str], audio: Path, path: Path, model: str, load: Callable[[], Captioner], clips_per_batch: int
) -> dict[str, str]:
    """Return the captions of clips, from the file or else by the model, which is loaded only if some are missing.

    A clip for which the model returns nothing has no caption, and is tried again by the next run.

    Args:
        clip_ids: the clips.
        audio: folder of the audio shards that hold them.
        path: where captions are kept (parquet), so that a stopped run pays for none of them twice.
        model: the model's name, under which captions are kept.
        load: loads the model.
        clips_per_batch: clips captioned at once.
    """
    captions = _kept(path, model)
    missing = set(clip_ids) - captions.keys()
    if missing:
        captioner = load()
        clips = (clip for clip in read_clips(audio) if clip.id in missing)
        with Progress("captions", len(missing)) as progress:
            while batch := list(islice(clips, clips_per_batch)):
                new = zip(batch, captioner(batch), strict=True)
                captions |= {clip.id: caption for clip, caption in new if caption}
                rows = ({"id": clip_id, "caption": caption, "model": model} for clip_id, caption in captions.items())
                write_parquet(rows, path)
                progress.advance(len(batch))
    return _cleaned(captions)


def read_captions(path: Path, model: str) -> dict[str, str]:
    """Return the captions that a model has made so far, by clip; a clip without a caption is left out."""
    return _cleaned(_kept(path, model))


def _kept(path: Path, model: str) -> dict[str, str]:
    rows = pq.read_table(path).to_pylist() if path.is_file() else []
    return {row["id"]: row["caption"] for row in rows if row["model"] == model}


def _cleaned(captions: Mapping[str, str]) -> dict[str, str]:
    cleaned = {clip_id: final_words(caption) for clip_id, caption in captions.items()}
    return {clip_id: caption for clip_id, caption in cleaned.items() if caption}
