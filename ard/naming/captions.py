"""Captions of clips, each made once in a run."""

import base64
import io
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import soundfile
from rich.progress import Progress

from ard.audio import read_clips
from ard.audiollm import load_audiollm
from ard.naming.chat import Chat, Content
from ard.naming.final import final_words
from ard.run import write_parquet
from ard.types import Clip

CAPTION_PROMPT = "Generate a detailed caption for the audio clip"  # Sec. 2.3
Captioner = Callable[[Sequence[Clip]], Sequence[str | None]]  # None where there is none


def audiollm_captioner(model: str, device: str, max_new_tokens: int) -> Captioner:
    """Load an AudioLLM that captions in this process."""
    loaded = load_audiollm(model, device=device)
    return lambda clips: loaded.generate(clips, [CAPTION_PROMPT] * len(clips), max_new_tokens)


def chat_captioner(chat: Chat) -> Captioner:
    """Caption by a chat that hears, at an endpoint."""
    return lambda clips: [reply.text for reply in chat([spoken(clip) for clip in clips], "captions")]


def spoken(clip: Clip) -> Content:
    """Return a clip and the paper's prompt as a message's parts; the sound is 16-bit WAV at its own rate."""
    file = io.BytesIO()
    soundfile.write(file, clip.waveform, clip.sample_rate_hz, format="WAV", subtype="PCM_16")
    sound = {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}
    return [{"type": "input_audio", "input_audio": sound}, {"type": "text", "text": CAPTION_PROMPT}]


def caption_clips(
    clip_ids: Sequence[str], audio: Path, path: Path, model: str, load: Callable[[], Captioner], clips_per_batch: int
) -> dict[str, str]:
    """Return the captions of clips, from the file of captions or by the model, which is loaded if one is missing.

    A clip of which the model says nothing has none, and is asked about again by the next run.

    Args:
        clip_ids: the clips.
        audio: folder of audio shards that hold them.
        path: where captions are kept (parquet), so that a run that was stopped pays for none of them twice.
        model: the model's name, by which captions are found again.
        load: gives the model.
        clips_per_batch: clips that are captioned at once.
    """
    known: dict[str, str] = {}
    if path.is_file():
        known = {row["id"]: row["caption"] for row in pq.read_table(path).to_pylist() if row["model"] == model}
    missing = set(clip_ids) - known.keys()
    if missing:
        captioner = load()
        clips = (clip for clip in read_clips(audio) if clip.id in missing)
        with Progress(transient=True) as progress:
            task = progress.add_task("captions", total=len(missing))
            while batch := list(islice(clips, clips_per_batch)):
                said = zip(batch, captioner(batch), strict=True)
                known |= {clip.id: caption for clip, caption in said if caption}
                kept = ({"id": clip_id, "caption": caption, "model": model} for clip_id, caption in known.items())
                write_parquet(kept, path)
                progress.advance(task, len(batch))
    cleaned = {clip_id: final_words(caption) for clip_id, caption in known.items()}
    return {clip_id: caption for clip_id, caption in cleaned.items() if caption}
