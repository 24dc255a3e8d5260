"""The clips that can be chosen."""

import numpy as np
import pytest

import ard.app.clips as clips
from ard.app import Clips
from ard.audio import write_audio_shards
from ard.run import Run
from ard.types import Clip, UserError

from .conftest import NASTY, made


def test_clips_of_the_run_are_found_by_words_and_read_by_id(run):
    kept = Clips(run)
    assert kept.splits == ["steer", "probe"]
    assert len(kept.find("steer")) == 6
    assert len(kept.find("steer", most=2)) == 2
    words = made(0).caption.upper().split()
    assert "app-000000" in [found.id for found in kept.find("probe", " ".join(reversed(words)))]
    assert not kept.find("steer", "no such word")
    (nasty,) = kept.find("steer", "<SCRIPT>")
    assert (nasty.id, nasty.caption) == (NASTY.id, NASTY.caption)
    chosen = kept.get({"split": "steer", "id": NASTY.id})
    assert (chosen.clip.id, chosen.shards) == (NASTY.id, run.audio("steer"))


def test_a_clip_without_a_caption_is_found_by_its_labels(tmp_path):
    run = Run(tmp_path)
    write_audio_shards([Clip("a", np.full(8000, 0.5, np.float32), 16000, "d", labels=("dog", "rain"))], run.audio("x"))
    assert [found.caption for found in Clips(run).find("x", "rain")] == ["dog, rain"]


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (None, "no clip is chosen"),
        ({"split": "steer"}, "no clip is chosen"),
        ({"split": "../..", "id": "etc/passwd"}, "the run has no clips of split '../..'"),
        ({"split": "steer", "id": "../../etc/passwd"}, "has no clip '../../etc/passwd' that can be heard"),
        ({"dropped": "guessed"}, "this clip is no longer here: drop it again"),
    ],
)
def test_what_is_not_there_is_refused(run, place, line):
    with pytest.raises(UserError, match=line.replace("[", r"\[").replace("..", r"\.\.")):
        Clips(run).get(place)


def test_of_dropped_clips_the_oldest_are_forgotten_when_memory_is_full(run, monkeypatch):
    monkeypatch.setattr(clips, "MOST_SAMPLES", 2500)
    kept = Clips(run)
    dropped = [Clip(str(n), np.ones(1000, np.float32), 16000, "dropped") for n in range(3)]
    keys = [kept.keep(clip) for clip in dropped]
    assert len(set(keys)) == 3
    with pytest.raises(UserError, match="no longer here"):
        kept.get({"dropped": keys[0]})
    assert [kept.get({"dropped": key}).clip for key in keys[1:]] == dropped[1:]
    large = Clip("large", np.ones(3000, np.float32), 16000, "dropped")
    assert kept.get({"dropped": kept.keep(large)}).clip is large
