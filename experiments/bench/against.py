"""Is this code slower than that of another commit? The same parts of both, in turn in one run.

`python -m experiments.bench [sae ...] --against COMMIT` checks the other commit out into a scratch folder. Two
processes on one thread are started, one a commit. They do the same part one after the other, in every round in the
other order. What is compared is the CPU time of a call, so that a busy machine slows neither down, and the ratio is
taken within a round. This file itself runs in both: a part may use only what both commits have.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

TITLE = "This code against that of another commit"
ROOT = Path(__file__).parent.parent.parent
NUM_ROUNDS = 5
SCRATCH = ExitStack()
"""Folders of this process, which go with it."""

CANNOT = "cannot:"
Call = Callable[[], object]


def scratch() -> Path:
    """Return a folder that is there until the process ends."""
    return Path(SCRATCH.enter_context(tempfile.TemporaryDirectory()))


def sae_step() -> Call:
    """Return a training step of Eq. 1."""
    import torch

    from experiments.bench.sae import D_IN, D_SAE, TOKENS, K, ours

    return ours(D_SAE, K, torch.randn(TOKENS, D_IN, generator=torch.Generator().manual_seed(0)))


def robust_step() -> Call:
    """Return a training step of the preset `robust`."""
    import torch

    from experiments.bench.sae import D_IN, D_SAE, TOKENS, K, ours_robust

    return ours_robust(D_SAE, K, torch.randn(TOKENS, D_IN, generator=torch.Generator().manual_seed(0)))


def training() -> Call:
    """Return a training from shards, of three SAEs of the demo's size side by side."""
    import logging

    from lightning import Trainer

    from ard.activations import ActivationDataModule
    from ard.sae import SAETraining
    from experiments.bench.feeding import write_store

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    folder = scratch()
    write_store(folder, 128, 4)
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )

    def fit() -> None:
        data = ActivationDataModule(folder, layer=0, batch_tokens=512, buffer_tokens=65536)
        trainer = Trainer(max_steps=50, accelerator="cpu", limit_val_batches=0, **quiet)
        trainer.fit(SAETraining(128, [4, 8, 16], k=16), data)

    return fit


def retrieval() -> Call:
    """Return the update of the lists of clips by a batch, encoding included."""
    import torch

    from ard.representatives import RepresentativeClips
    from ard.sae import TopKSAE
    from experiments.bench.retrieval import CLIPS_PER_BATCH, D_IN, D_SAE, TOKENS_PER_CLIP, K, P

    generator = torch.Generator().manual_seed(0)
    sae, metric = TopKSAE(D_IN, D_SAE, k=K, generator=generator), RepresentativeClips(D_SAE, P)
    clip_of_token = torch.arange(CLIPS_PER_BATCH).repeat_interleave(TOKENS_PER_CLIP)
    done = 0

    @torch.no_grad()
    def update() -> None:
        nonlocal done
        x = torch.randn(len(clip_of_token), D_IN, generator=generator)
        metric.update(sae.encode(x), clip_of_token, torch.arange(CLIPS_PER_BATCH) + done)
        done += CLIPS_PER_BATCH

    return update


def matching() -> Call:
    """Return Table 1's matching on a twentieth of the paper's clips, once embeddings exist."""
    from ard.evaluation import MatchLabels
    from ard.run import Run
    from experiments.bench import matching as bench
    from tests.evaluation.cells import Size, Space, write_cell

    bench.NUM_CLIPS //= 20
    labels = [f"class_{i}" for i in range(bench.NUM_LABELS)]
    names = [f"class {i % bench.NUM_LABELS} no. {i}" for i in range(bench.NUM_CONCEPTS)]
    scores, space = bench.scored_clips(labels), Space([label.replace("_", " ") for label in labels])
    cell = Run(scratch()).cell(26, 8)
    write_cell(cell, Size(bench.NUM_FEATURES, bench.NUM_CONCEPTS, 2), names)
    space(names)
    return lambda: MatchLabels().match(cell, scores, space)


def steering() -> Call:
    """Return an answer under the paper's procedure, by a Qwen2-Audio a sixteenth as wide."""
    import torch

    from ard.audiollm import load_audiollm
    from ard.sae import TopKSAE
    from ard.steering import steer
    from experiments.bench.extraction import make_clips, save_model
    from experiments.bench.steering import CLAMP, EXPANSION, K_SHARE, LAYER, PROMPT, SHRINK

    folder = scratch()
    save_model(folder, SHRINK)
    model = load_audiollm(str(folder))
    model.model.generation_config.eos_token_id = None
    d_sae = EXPANSION * model.d_in
    sae = TopKSAE(model.d_in, d_sae, k=round(K_SHARE * d_sae), generator=torch.Generator().manual_seed(0))
    batch = model.prompter(make_clips()[:1], [PROMPT])

    def answer() -> None:
        with steer(model, sae, LAYER, CLAMP):
            model.generate(batch, max_new_tokens=16)

    return answer


def extraction() -> Call:
    """Return the capture of three layers of a clip, by a Qwen2-Audio an eighth as wide."""
    from ard.audiollm import load_audiollm
    from experiments.bench.extraction import LAYERS, make_clips, save_model

    folder = scratch()
    save_model(folder)
    model, clips = load_audiollm(str(folder)), make_clips()[:1]
    return lambda: model.capture(clips, LAYERS)


PARTS = {
    "sae": ("a training step, plain", sae_step),
    "robust": ("a training step, `robust`", robust_step),
    "training": ("50 steps from shards, three SAEs of the demo's size", training),
    "retrieval": ("retrieval of a batch of 32 clips, encoding included", retrieval),
    "matching": ("matching of 511 clips with 5,000 concepts", matching),
    "steering": ("a steered answer of 16 tokens", steering),
    "extraction": ("three layers of a clip of ten seconds", extraction),
}


def serve() -> None:
    """Do the part that each line names, and write how many CPU seconds that took, or why it cannot be done.

    A part is prepared, and done once without counting, when it is not the one before.
    """
    import torch

    torch.set_num_threads(1)
    results, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed
    prepared, call = "", None
    for part in map(str.strip, sys.stdin):
        try:
            if part != prepared:
                prepared, call = part, PARTS[part][1]()
                call()
            assert call is not None
            started = time.process_time()
            call()
            took = str(time.process_time() - started)
        except Exception as error:
            took = f"{CANNOT} {error!r}"
        results.write(f"{took}\n")
        results.flush()


class Process:
    """A process that does parts of the code in a folder."""

    def __init__(self, tree: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def seconds(self, part: str) -> float:
        """Have a part done, and return the CPU seconds.

        Raises:
            SystemExit: if the commit cannot do it.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{part}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline().strip()
        if not line or line.startswith(CANNOT):
            raise SystemExit(
                f"part {part!r} cannot be done by both commits ({line or 'the process ended'}): leave it out"
            )
        return float(line)

    def end(self) -> None:
        """Let it end."""
        self.process.communicate()


def in_turn(parts: Sequence[str], trees: Sequence[Path], rounds: int) -> dict[str, list[list[float]]]:
    """Return the CPU seconds of each part, round by round, in each tree."""
    processes = [Process(tree) for tree in trees]
    found: dict[str, list[list[float]]] = {part: [] for part in parts}
    try:
        for part in parts:
            for number in range(rounds):
                order = list(range(len(trees)))[:: 1 if number % 2 else -1]
                seconds = {index: processes[index].seconds(part) for index in order}
                found[part].append([seconds[index] for index in range(len(trees))])
    finally:
        for process in processes:
            process.end()
    return found


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check a commit out into a scratch folder.

    Raises:
        SystemExit: if there is no such commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        added = subprocess.run([*git, "add", "--detach", str(tree), commit], capture_output=True, text=True)
        if added.returncode:
            raise SystemExit(f"commit {commit!r} cannot be checked out: {added.stderr.strip()}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


def subject(tree: Path) -> str:
    """Return the commit of a tree, and what it says."""
    command = ["git", "-C", str(tree), "log", "-1", "--format=%h, %cs, “%s”"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(commit: str, parts: Sequence[str] = (), rounds: int = NUM_ROUNDS) -> list[Any]:
    """Compare parts of this code with those of another commit."""
    from experiments.bench.report import Line

    unknown = set(parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"part {min(unknown)!r} does not exist: choose of {', '.join(PARTS)}")
    lines = []
    with checked_out(commit) as tree:
        for part, found in in_turn(list(parts or PARTS), (ROOT, tree), rounds).items():
            own, other = (statistics.median(column) for column in zip(*found, strict=True))
            ratios = [ours / theirs for ours, theirs in found]
            note = f"{own:.3g} s against {other:.3g} s; round by round {min(ratios):.2f} to {max(ratios):.2f}"
            lines.append(Line(PARTS[part][0], statistics.median(ratios), "times as long", note))
        about = "CPU seconds on one thread, in turn, since the machine is shared; median ratios"
        lines.append(Line(f"of these, against {subject(tree)}", len(lines), "parts", about))
    return lines


if __name__ == "__main__":
    with SCRATCH:
        serve()
