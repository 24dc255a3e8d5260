"""What is on the disk belongs to the user, and one process at a time writes to a folder."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr
from pathlib import Path

import numpy as np
import soundfile
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from ard.activations.store import write_manifest, write_shard
from ard.audio import read_audio_manifest, read_clips
from ard.cli import main
from ard.files import LOCK, claim, in_use
from ard.presets import CONFIGS
from ard.sae import TopKSAE
from experiments.torture.case import Case

NAMES = ["50%done", "100%", "${HOME}x", "${run.out}", "{expansion}", "a b", "a=b", "a,b", "[x", "'\"", "a\nb", "a::b"]
WORST = "50% ${HOME}x{expansion}\\${run.out} a=b,[c]'\"\n:#?~* é"


def recordings(folder: Path, num_clips: int = 4) -> Path:
    """Make a folder of sounds with other things of the user's among them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(num_clips):
        soundfile.write(folder / f"{number}.wav", rng.uniform(-0.5, 0.5, 16000), 16000)
    (folder / "manifest.json").write_text('{"mine": 1}', encoding="utf-8")
    (folder / "000000.tar").write_text("mine too", encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(*words: object) -> str:
    """Run a command that must be refused with exit code 2, and return its one line."""
    said, code = io.StringIO(), None
    try:
        with redirect_stderr(said):
            main([str(word) for word in words])
    except SystemExit as stopped:
        code = stopped.code
    line = said.getvalue().strip().rpartition("\n")[2]
    if code != 2 or not line.startswith("ard: "):
        raise AssertionError(f"exit code {code}, {line!r}")
    return line


def untouched(folder: Path, commands: Sequence[Sequence[object]]) -> str:
    """See that commands are refused and leave a folder as it was; return the last one's line."""
    before, line = contents(folder), ""
    for words in commands:
        line = refused(*words)
        assert contents(folder) == before, f"{words} changed the folder"
    return line


def synthetic(out: Path, num_clips: int) -> list[str]:
    """Return the arguments that write so many clips."""
    return ["shards", "synthetic", "--split", "probe", "--num_clips", str(num_clips), "--out", str(out)]


def started(out: Path, words: list[str]) -> subprocess.Popen[bytes]:
    """Start a command in a process of its own, and wait until it writes to a folder."""
    process = subprocess.Popen([sys.executable, "-m", "ard", *words], stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 100
    while not list(out.glob("*.partial")):
        assert process.poll() is None, "it ended before it began to write"
        assert time.monotonic() < give_up, "it does not begin to write"
        time.sleep(0.01)
    return process


def activations(folder: Path) -> Path:
    """Make activation shards of one layer."""
    about = {"model": "none", "layers": [3], "dtype": "float32"}
    generator = torch.Generator().manual_seed(0)
    clips = [({"id": f"c{n}", "num_tokens": 50}, {3: torch.randn(50, 8, generator=generator)}) for n in range(40)]
    with claim(folder):
        write_shard(folder, 0, clips, [], about)
        write_manifest(folder, 1, 8, about)
    return folder


def lightning(command: str, config: str, out: Path, **facts: object) -> list[str]:
    """Return the arguments of one of Lightning's commands on the demo's YAML."""
    given = {"out": out, "activations": out / "activations", "evaluation": "null", "d_in": 8, "k": 2, **facts}
    changed = [f"--run.{name}={value}" for name, value in given.items()]
    return [command, "--config", str(CONFIGS / "demo" / f"{config}.yaml"), *changed]


def shards_over_recordings(scratch: Path) -> str:
    """Write shards over the sounds that are read, over a folder above them, and over any folder in use."""
    mine = recordings(scratch / "mine")
    sounds = recordings(mine / "sounds")
    commands: list[list[object]] = [["shards", "folder", "--root", root, "--out", mine] for root in (mine, sounds)]
    return untouched(mine, [*commands, synthetic(mine, 2)])


def everything_over_recordings(scratch: Path) -> str:
    """Have every other command write to a folder of the user's."""
    mine, sae = recordings(scratch / "mine"), scratch / "sae"
    TopKSAE(8, 16, k=2).save_pretrained(sae)
    fit, extract = lightning("fit", "fit", scratch), lightning("extract", "extract", scratch)
    commands: list[list[object]] = [
        ["demo", "--out", mine],
        ["table", "4", "--out", mine],
        ["run", "--audio", mine, "--out", mine],
        ["convert", sae, mine, "--to", "sparsify"],
        [*fit, f"--run.sae={mine}"],
        [*extract, f"--run.activations={mine}"],
    ]
    return untouched(mine, commands)


def another_kind(scratch: Path) -> str:
    """Write audio shards over activation shards, and the other way round."""
    made, audio = activations(scratch / "activations"), scratch / "audio"
    main(synthetic(audio, 2))
    untouched(made, [synthetic(made, 2)])
    return untouched(audio, [[*lightning("extract", "extract", scratch), f"--run.activations={audio}"]])


def stray_files(scratch: Path) -> str:
    """Write shards anew where the user has put a note, and a tar of the like name."""
    main(synthetic(scratch, 200))
    (scratch / "notes.txt").write_text("mine", encoding="utf-8")
    (scratch / "000777.tar").write_text("mine", encoding="utf-8")
    main(synthetic(scratch, 3))
    left = in_use(scratch)
    assert left == ["000000.tar", "000777.tar", "manifest.json", "notes.txt"], left
    return f"{', '.join(left)} are there"


def two_at_once(scratch: Path) -> str:
    """Start two processes on one folder."""
    out = scratch / "out"
    first = started(out, synthetic(out, 400))
    line = refused(*synthetic(out, 5))
    assert str(first.pid) in line, line
    assert first.wait() == 0, "the first failed"
    assert read_audio_manifest(out).num_clips == len(list(read_clips(out))) == 400
    return line


def killed(scratch: Path) -> str:
    """Kill a process in the middle of its writing, and start it again."""
    out = scratch / "out"
    first = started(out, synthetic(out, 400))
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = len(list(out.glob("*.partial")))
    main(synthetic(out, 5))
    assert in_use(out) == ["000000.tar", "manifest.json"], in_use(out)
    assert not list(out.glob("*.partial")), "halves are left"
    return f"{left} half-written files were left and are gone, 5 clips are written"


def cell_of_a_held_run(scratch: Path) -> str:
    """Test a cell of a run that another process works at."""
    holder = "import sys, pathlib; from ard.files import claim; c = claim(pathlib.Path(sys.argv[1])); c.__enter__(); "
    words = [sys.executable, "-c", holder + "print('held', flush=True); sys.stdin.read()", str(scratch)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        line = refused(*lightning("test", "test", scratch, cell=scratch / "layer-3/poly", expansion="null"))
        process.kill()
    assert f"process {process.pid}" in line, line
    return line


def fast_dev_run(scratch: Path) -> str:
    """Try a cell that is finished on one batch."""
    activations(scratch / "activations")
    words = [*lightning("fit", "fit", scratch), "--trainer.max_steps=5", "--trainer.logger=false"]
    main(words)
    test = OmegaConf.load(CONFIGS / "demo" / "test.yaml")
    test.trainer.callbacks = test.trainer.callbacks[:2]  # the others need the sounds, which are not here
    OmegaConf.save(test, scratch / "test.yaml")
    shutil.copy(CONFIGS / "demo" / "run.yaml", scratch)
    before = contents(scratch)
    assert any(name.endswith("sae_weights.safetensors") for name in before)
    for command, config in (("fit", CONFIGS / "demo" / "fit.yaml"), ("test", scratch / "test.yaml")):
        _, _, _, *facts = lightning(command, command, scratch)
        main([command, "--config", str(config), *facts, "--trainer.fast_dev_run=true"])
        assert contents(scratch) == before, f"{command} changed the folder"
    return f"none of {len(before)} files is another"


def odd_names(scratch: Path) -> str:
    """Write shards into folders of odd names, and read them."""
    with chdir(scratch):
        for name in NAMES:
            main(synthetic(Path(f"./{name}"), 1))
            assert len(list(read_clips(Path(name)))) == 1, name
        assert sorted(os.listdir(".")) == sorted(NAMES), os.listdir(".")
    return f"{len(NAMES)} folders, each by its name"


def run_among_the_sounds(scratch: Path) -> str:
    """Run the whole method into a folder of an odd name among the sounds that are read, by two spellings."""
    mine = recordings(scratch / "mine")
    (scratch / "link").symlink_to(mine / WORST)
    made = []
    with chdir(mine):
        for out in (WORST, str(scratch / "link") + "/"):
            (mine / "0.wav").touch()
            main(["run", "--audio", ".", "--model", "embedded", "--clap", "embedded", "--out", out])
            made.append({path: path.stat().st_mtime_ns for path in (mine / WORST).rglob("*.tar")})
    assert made[1:] == made[:-1], "it was done twice"
    p = json.loads((mine / WORST / "run.json").read_text(encoding="utf-8"))["p"]
    (retrieved,) = (mine / WORST).glob("layer-*/e8/representatives.safetensors")
    assert p == load_file(retrieved)["ard/top_ids"].shape[1] == 2, p
    assert sorted(os.listdir(mine)) == sorted(
        ["0.wav", "1.wav", "2.wav", "3.wav", "000000.tar", "manifest.json", WORST]
    )
    assert not (mine / LOCK).exists()
    return "one run; run.json and the stages say p = 2 of four clips"


CASES = [
    Case("shards over the recordings, or above them", shards_over_recordings, quick=True),
    Case("every command with the recordings' folder as --out", everything_over_recordings),
    Case("audio shards over activation shards, and back", another_kind),
    Case("shards anew where other files lie", stray_files, quick=True),
    Case("two processes on one --out", two_at_once),
    Case("kill -9 while writing, and again", killed),
    Case("lightning test on a cell of a run at work", cell_of_a_held_run),
    Case("fast_dev_run on a finished cell", fast_dev_run),
    Case("folders named 100%, ${HOME}x, {expansion}, [x, a=b ...", odd_names, quick=True),
    Case("ard run --audio . --out out, twice, by two spellings", run_among_the_sounds),
]
