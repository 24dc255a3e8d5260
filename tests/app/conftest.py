"""A small run of the embedded model: six clips, a dictionary of their tokens, names that a page may trip over."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from ard.app import Subject
from ard.audio import SyntheticCorpus, read_clips, write_audio_shards
from ard.audiollm import load_audiollm
from ard.cli import main
from ard.probing import clip_scores
from ard.reports import write_report
from ard.run import Run
from ard.sae import TopKSAE, make_control
from ard.types import Clip
from tests.reports.conftest import concept, write_about, write_concepts

QUESTION = "What emotion does the speaker show (neutral, happy, sad, angry)?"
SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
NASTY = Clip("<b>'\"&; $(touch x)", np.zeros(0, np.float32), 16000, "made", caption=SCRIPT)  # but for its sound


def made(number):
    """Make a clip of a voice, the last with texts that a page may trip over."""
    clip = SyntheticCorpus("app", 6, speech_share=1.0)[number]
    if number < 5:
        return clip
    return Clip(NASTY.id, clip.waveform, clip.sample_rate_hz, NASTY.dataset, caption=NASTY.caption)


@pytest.fixture(scope="session")
def model():
    """The embedded model, which every test of this folder shares."""
    return load_audiollm()


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    """Make the run, with its report and a study."""
    out = tmp_path_factory.mktemp("app") / "a run's"
    out.mkdir()
    tasks = [{"source": "sad", "target": "happy", "prompt": QUESTION, "concept": "happy", "classes": ["happy", "sad"]}]
    write_about(out, model="embedded", data=SCRIPT, layers=[3], expansions=[8], tasks=tasks)
    run = Run.load(out)
    for split in ("probe", "steer"):
        write_audio_shards(map(made, range(6)), run.audio(split))
    clips = list(read_clips(run.audio("probe")))
    texts = pa.array([[]] * 6, pa.list_(pa.string()))
    known = {"id": [clip.id for clip in clips], "duration_s": [clip.duration_s for clip in clips], "labels": texts}
    pq.write_table(pa.table(known | {"caption": [clip.caption for clip in clips]}), run.clips)
    heard = model.capture(clips, [3])[3]
    untrained = TopKSAE(128, 1024, k=16, generator=torch.Generator().manual_seed(0))
    sae = make_control("tokens", untrained, heard, sum(map(len, heard)), 0).requires_grad_(False)
    sae.save_pretrained(run.own.sae)
    with torch.inference_mode():
        codes = [sae.encode(x) for x in heard]
    maxima, highest, num_active = torch.zeros(1024), torch.zeros(1024, 1, dtype=torch.float64), torch.zeros(1024)
    for one in codes:
        maxima.scatter_reduce_(0, one.indices.flatten(), one.values.flatten(), "amax")
        scores = clip_scores(one, torch.zeros(len(one.values), dtype=torch.int64), 1, 1024).ard
        highest = torch.maximum(highest, scores.T)
        num_active += scores[0] > 0
    run.own.save_tensors("representatives", {"max_activation": maxima, "ard/top_scores": highest})
    ids = [clip.id for clip in clips]
    common = num_active.argsort(descending=True, stable=True)[:30].tolist()
    names = [SCRIPT, "man speaking", "../../etc/passwd", *(f"sound {number}" for number in range(27))]
    rows = [concept(f, 30.0 - n, ids[2:], name=name) for n, (f, name) in enumerate(zip(common, names, strict=True))]
    write_concepts(out, rows)
    write_report(out)
    main(["study", "make", "--run", str(out), "--concepts", "3"])
    return out


@pytest.fixture
def run(folder):
    """Open the run."""
    return Run.load(folder)


@pytest.fixture(scope="session")
def subject(folder, model):
    """What the explorer loads of the run."""
    loaded = Subject.load(Run.load(folder), "cpu")
    return loaded._replace(model=model)


@pytest.fixture
def clip(run):
    """A clip of the run."""
    return next(read_clips(run.audio("steer")))


def wav(clip):
    """Return a clip as the content of a WAV file."""
    content = io.BytesIO()
    soundfile.write(content, clip.waveform, clip.sample_rate_hz, format="WAV", subtype="FLOAT")
    return content.getvalue()
