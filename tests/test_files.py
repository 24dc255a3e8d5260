"""Folders are written to by one process at a time, and what somebody else made stays as it is."""

import fcntl
import json
import multiprocessing
import os
import re
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread, Timer

import numpy as np
import pytest
import soundfile
import torch

from ard.audio import read_audio_manifest, read_clips, write_audio_shards
from ard.cli import main
from ard.files import LOCK, InUseError, claim, in_use, turn
from ard.presets import CONFIGS
from ard.results import replacing, write_text
from ard.run import Run
from ard.sae.formats import StoredSAE, write
from ard.study import Concept, Store
from ard.types import Clip, UserError
from tests.launch import forked
from tests.reports.conftest import write_about
from tests.stores import write_activations

PARTIAL = "x.json.0123456789ab.partial"


@contextmanager
def held(folder):
    """Hold a folder as another process does: by another opened file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 12 on there (ard demo)\n")
        file.flush()
        yield


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK}


def refused(capsys, *words):
    """Run a command that must be refused, and return its one line."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ard: ")]
    return line


def synthetic(out, num_clips=4):
    return ["shards", "synthetic", "--split", "probe", "--num_clips", str(num_clips), "--out", str(out)]


def noise(name="x"):
    return Clip(name, np.random.default_rng(0).standard_normal(4000).astype(np.float32).clip(-1, 1), 8000, "d")


@pytest.fixture
def recordings(tmp_path):
    """A folder that belongs to the user: sounds, and other things that happen to lie there."""
    folder = tmp_path / "recordings"
    (folder / "audio").mkdir(parents=True)
    for name in ("a.wav", "audio/b.wav"):
        soundfile.write(folder / name, noise().waveform, 8000)
    (folder / "manifest.json").write_text('{"mine": 1}', encoding="utf-8")
    (folder / "000000.tar").write_bytes(b"mine too")
    return folder


@pytest.mark.slow
def test_a_folder_is_claimed_again_by_who_holds_it_and_by_nobody_else(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with claim(tmp_path / "run"), claim(tmp_path / "run" / "cell"), claim(tmp_path / "link"):
        thread = Thread(target=lambda: claim(tmp_path / "run").__enter__())
        thread.start()
        thread.join()
    for above in (tmp_path / "run", tmp_path):
        with held(above), pytest.raises(UserError, match=r"is in use by process 12 on there \(ard demo\): wait until"):
            claim(tmp_path / "link" / "cell").__enter__()
    with held(tmp_path / "run" / "cell"), claim(tmp_path / "run" / "other"):  # two cells at once
        pass


def holding(folder):
    """Hold a folder until it is killed."""
    with claim(folder):
        (folder / "held").touch()
        time.sleep(60)


@pytest.mark.slow
def test_who_waits_for_a_folder_has_it_when_its_holder_is_killed(tmp_path, capsys):
    holder = multiprocessing.get_context("fork").Process(target=holding, args=(tmp_path / "run",))
    holder.start()
    while not (tmp_path / "run" / "held").exists():
        time.sleep(0.01)
    with pytest.raises(InUseError, match=f"is in use by process {holder.pid}"):
        claim(tmp_path / "run" / "cell").__enter__()
    killed = Timer(4, holder.kill)
    killed.start()
    with claim(tmp_path / "run" / "cell", wait=True):
        assert killed.finished.is_set()
    killed.join()
    holder.join()
    line = capsys.readouterr().err
    assert f"waiting for process {holder.pid} on " in line
    assert f"which works on {str(tmp_path / 'run')!r}" in line


def test_what_lies_below_a_folder_that_is_held_stays_its_holders(tmp_path):
    cell = tmp_path / "run" / "cell"
    with claim(cell), held(tmp_path / "run"), claim(cell / "checkpoints"):  # another process came to hold the run
        pass


def counting(path, pause_s, environment):
    """Add one to the number in a file, slowly."""
    os.environ.update(environment)
    with turn(path, of_each_rank=bool(environment)):
        number = int(path.read_text(encoding="utf-8"))
        time.sleep(pause_s)
        write_text(path, str(number + 1))


@pytest.mark.parametrize("environment", [{}, {"RANK": "1"}], ids=["jobs", "ranks"])
def test_processes_take_turns_at_a_file_that_they_share(tmp_path, environment):
    write_text(tmp_path / "number", "0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=counting, args=(tmp_path / "number", 0.05, environment)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text(encoding="utf-8") == "4"
    assert in_use(tmp_path) == ["number"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}),
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, {"NODE_RANK": "1", "LOCAL_RANK": "0"}),
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, {"NODE_RANK": "0", "LOCAL_RANK": "1"}),
        ({"RANK": "0", "LOCAL_RANK": "0"}, {"RANK": "1", "LOCAL_RANK": "0"}),
        ({"SLURM_PROCID": "0"}, {"SLURM_PROCID": "1"}),
    ],
)
def test_of_the_ranks_of_a_job_the_first_claims_for_all(tmp_path, monkeypatch, first, second):
    monkeypatch.setattr("ard.files.PATIENCE_S", 0.05)
    with held(tmp_path):
        for name, value in second.items():
            monkeypatch.setenv(name, value)
        with claim(tmp_path / "a"), turn(tmp_path / "b" / "file"):
            assert not (tmp_path / "a").exists()
            assert not (tmp_path / "b").exists()
        for name, value in first.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match="is in use by"):
            claim(tmp_path / "a").__enter__()


def test_a_claim_under_which_nothing_is_written_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    with claim(tmp_path / "new"), claim(tmp_path / "empty"), claim(tmp_path / "used"):
        write_text(tmp_path / "used" / "x", "x")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "empty",
        "used",
        f"used/{LOCK}",
        "used/x",
    ]


def test_half_written_files_go_with_a_claim_but_not_those_of_a_process_that_lives(tmp_path):
    mine, theirs, others = tmp_path / "a" / PARTIAL, tmp_path / "b" / PARTIAL, tmp_path / "a" / "song.partial"
    for path in (mine, theirs, others):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half", encoding="utf-8")
    with theirs.open("rb") as file, claim(tmp_path / "c"):
        fcntl.flock(file, fcntl.LOCK_EX)
        with claim(tmp_path):
            pass
        assert [path.exists() for path in (mine, theirs, others)] == [False, True, True]
    assert in_use(tmp_path / "a") == ["song.partial"]


def test_every_writing_is_whole_and_by_one_name_each(tmp_path):
    with replacing(tmp_path / "x") as first, replacing(tmp_path / "x") as second:
        assert first != second
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    with suppress(KeyError), replacing(tmp_path / "a") as a, replacing(tmp_path / "x") as x:
        a.write_text("a", encoding="utf-8")
        x.write_text("other", encoding="utf-8")
        raise KeyError
    assert (in_use(tmp_path), (tmp_path / "x").read_text(encoding="utf-8")) == (["x"], "first")
    for path in Path("ard").rglob("*.py"):
        if path.name not in ("results.py", "files.py"):
            assert not re.search(r"os\.replace|\.partial\"|fsync|rmtree", path.read_text(encoding="utf-8")), path


def slowly(command):
    """Run a command whose writes take a while."""
    fsync = os.fsync
    os.fsync = lambda file: (time.sleep(1), fsync(file))
    main(command)


@pytest.fixture
def started():
    """Start a slow command in a process of its own, and wait until it holds a folder."""
    processes = forked()
    running = []

    def start(command, folder):
        process = processes.Process(target=slowly, args=(command,))
        process.start()
        running.append(process)
        deadline = time.monotonic() + 120
        while not list(folder.glob("*.partial")):
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    yield start
    for process in running:
        process.kill()
        process.join()


@pytest.mark.slow
def test_of_two_processes_on_one_folder_the_second_is_told_and_the_first_ends_well(tmp_path, started, capsys):
    out = tmp_path / "out"
    first = started(synthetic(out, 300), out)
    line = refused(capsys, *synthetic(out, 5))
    assert f"folder {str(out)!r} is in use by process {first.pid} on " in line
    first.join()
    assert first.exitcode == 0
    assert read_audio_manifest(out).num_clips == len(list(read_clips(out))) == 300


@pytest.mark.slow
def test_what_a_killed_process_held_is_free_and_its_halves_are_gone(tmp_path, started):
    out = tmp_path / "out"
    first = started(synthetic(out, 300), out)
    first.kill()
    first.join()
    assert list(out.glob("*.partial"))
    main(synthetic(out, 5))
    assert in_use(out) == ["000000.tar", "manifest.json"]
    assert not list(out.glob("*.partial"))
    assert read_audio_manifest(out).num_clips == 5


@pytest.fixture
def study(tmp_path):
    """A run's folder with a study of one concept."""
    write_about(tmp_path)
    Store.create(Run(tmp_path).study, [Concept("a", "AR&D", 3, 8, 7, "a dog", ("c0", "c1"), ("dog", "dog"))], seed=0)
    return tmp_path


def lightning(command, config, out):
    facts = {"out": out, "activations": out / "activations", "layer": 1, "expansion": 4, "d_in": 8, "k": 3}
    changed = [f"--run.{name}={value}" for name, value in facts.items()]
    return [command, "--config", CONFIGS / "demo" / f"{config}.yaml", *changed]


def poly(out):
    return ["--run.expansion=null", f"--run.cell={out}/layer-1/poly"]


def write_sae(folder):
    tensors = {"W_enc": torch.zeros(2, 4), "b_enc": torch.zeros(4), "W_dec": torch.zeros(4, 2), "b_dec": torch.zeros(2)}
    write(StoredSAE(1, True, tensors, {}), folder, "saelens")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "where"),
    [
        (lambda out: synthetic(out / "audio"), "audio"),
        (lambda out: ["demo", "--out", out], "."),
        (lambda out: ["table", "1", "--out", out], "."),
        (lambda out: ["report", "--run", out], "."),
        (lambda out: ["seeds", out, out], "."),
        (lambda out: ["study", "make", "--run", out], "study"),
        (lambda out: ["study", "score", "--run", out], "."),
        (lambda out: ["study", "export", "--run", out], "study"),
        (lambda out: ["study", "export", "--run", out, "--out", out / "x"], "x"),
        (lambda out: ["convert", out / "sae", out / "x", "--to", "sparsify"], "x"),
        (lambda out: lightning("extract", "extract", out), "activations"),
        (lambda out: lightning("predict", "extract", out), "."),
        (lambda out: lightning("fit", "fit", out), "layer-1/e4/sae"),
        (lambda out: lightning("fit", "fit", out), "layer-1/e4/checkpoints"),
        (lambda out: [*lightning("test", "test", out), *poly(out)], "layer-1/poly"),
        (lambda out: [*lightning("test", "steer", out), *poly(out)], "."),
        (lambda out: [*lightning("test", "quality", out), *poly(out)], "layer-1"),
    ],
)
def test_every_command_that_writes_is_told_who_holds_the_folder(study, words, where, capsys):
    write_sae(study / "sae")
    with held(study / where):
        before = contents(study)
        line = refused(capsys, *words(study))
        assert f"folder {str((study / where).resolve())!r} is in use by process 12 on there (ard demo): wait" in line
        assert contents(study) == before


@pytest.mark.slow
def test_a_run_of_ones_own_sounds_is_told_who_holds_the_folder(recordings, tmp_path, tiny_audiollm, capsys):
    with held(tmp_path / "out"):
        args = ["--audio", recordings, "--model", tiny_audiollm, "--clap", "embedded", "--out", tmp_path / "out"]
        assert "is in use by process 12" in refused(capsys, "run", *args)


@pytest.mark.slow
def test_no_command_writes_into_a_folder_that_is_not_its_own(recordings, tmp_path, study, tiny_audiollm, capsys):
    before, sae = contents(recordings), tmp_path / "an sae"
    write_sae(sae)
    theirs = contents(sae)
    folder = ["shards", "folder", "--root"]
    commands = [
        [*folder, recordings, "--out", recordings],
        [*folder, recordings / "audio", "--out", recordings],
        synthetic(recordings),
        ["demo", "--out", recordings],
        ["table", "4", "--out", recordings],
        ["run", "--audio", recordings, "--model", tiny_audiollm, "--out", recordings],
        ["run", "--audio", tmp_path / "recordings" / "audio", "--model", tiny_audiollm, "--out", recordings],
        ["study", "export", "--run", study, "--out", recordings],
        ["convert", sae, recordings, "--to", "sparsify"],
        [*lightning("extract", "extract", tmp_path), f"--run.activations={recordings}"],
        [*lightning("fit", "fit", tmp_path), f"--run.sae={recordings}"],
        [*lightning("fit", "fit", tmp_path), f"--run.sae={sae}"],
    ]
    for words in commands:
        assert re.search(r"is in use|holds what is read", refused(capsys, *words)), words
        assert contents(recordings) == before
        assert contents(sae) == theirs
        assert not (recordings / LOCK).exists()


def test_shards_of_one_kind_are_not_written_over_those_of_another(tmp_path, capsys):
    audio, activations = tmp_path / "audio", tmp_path / "activations"
    write_audio_shards([noise()], audio)
    with claim(activations):
        write_activations(activations, [({"id": "c"}, torch.ones(5, 4))])
    before = contents(tmp_path)
    assert "in use, and not by audio shards" in refused(capsys, *synthetic(activations))
    words = [*lightning("extract", "extract", tmp_path), f"--run.activations={audio}"]
    assert "in use, and not by activation shards" in refused(capsys, *words)
    assert contents(tmp_path) == before


def test_new_shards_replace_the_old_ones_and_nothing_else(tmp_path):
    write_audio_shards([noise(str(n)) for n in range(5)], tmp_path, clips_per_shard=1)
    (tmp_path / "000123.tar").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    write_audio_shards([noise("new")], tmp_path, clips_per_shard=1)
    assert in_use(tmp_path) == ["000000.tar", "000123.tar", "manifest.json", "notes.txt"]
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["shards"] == ["000000.tar"]


NAMES = ["50%done", "100%", "%06d", "${HOME}x", "a\\${b}", "{expansion}", "{a..b}", "a b", "a=b", "a,b", "[x", "it's"]
NAMES += [
    'say "x"',
    "new\nline",
    "a:b",
    "a::b",
    "s3:x",
    "a#b?c",
    "~t",
    "*",
    "null",
    "1e3",
    "- a",
    "a: b",
    "@x",
    "$x",
    "雨",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(synthetic(f"./{name}", 2))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [clip.dataset for clip in read_clips(Path(name))] == ["synthetic"] * 2
    main(["shards", "--check", f"./{name}"])


def test_the_folder_one_is_in_is_written_to_by_its_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(synthetic(".", 2))
    assert read_audio_manifest(tmp_path).num_clips == 2


def test_a_path_that_cannot_be_written_is_named(tmp_path, capsys):
    write_text(tmp_path / "file", "x")
    for out in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / ("long" * 100)):
        assert "cannot be written (" in refused(capsys, *synthetic(out))
