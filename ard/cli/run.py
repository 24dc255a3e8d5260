"""The commands that run the method: `ard demo`, `ard table` and `ard run`."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ard.activations import read_manifest
from ard.audio import FolderClips, read_audio_manifest
from ard.audiollm import AudioLLM, load_audiollm
from ard.chain import Chain, check_steps, claim_run
from ard.classes import import_class
from ard.console import at_work, console
from ard.embedding import load_clap
from ard.embedding.clap import COMPUTED
from ard.files import refuse_inside
from ard.hub import ensure_models
from ard.naming import read_vocabulary
from ard.presets import preset_facts, table_facts
from ard.run import MANIFEST
from ard.sae import TopKSAE
from ard.sae.functional import squared_error
from ard.steps import TABLES, Goal, TableNumber
from ard.types import Clip, UserError

PAPER_LAYER = 26 / 32  # depth of the layer of Tables 1 to 3
LEAST_CLIPS = 6  # three in H^k and three in L^k: two have no spread
LONGEST_S = 30.0  # of a clip, even if the model could hear an hour at once
PASSES, LEAST_STEPS, MOST_STEPS = 40, 600, 20_000  # of a training over the tokens
MOST_TIMED = 300_000_000  # parameters of a model that is loaded only to see how long a run takes
HELD_OUT, LEAST_TO_HOLD_OUT = 0.25, 40  # share of the files, and how many there have to be
REST_S = 60  # of a run, beside the models and the training
LAST_WORDS_S = 60  # that another process has to end when there is nothing left to do


def demo(out: Path = Path("runs/demo"), seed: int = 0, *, redo: list[str] = []) -> None:  # noqa: B006
    """Run the whole method on the embedded default: Tables 1 to 4 in miniature and the HTML report.

    Args:
        out: the run's folder; a second call goes on where the first was stopped.
        seed: seed of the sounds, the SAEs and every draw.
        redo: steps to do again even if they are done: audio, extract, fit, test, score, steer.
    """
    chain = Chain("demo", {"out": str(out), "seed": seed}, redo)
    with claim_run(out):
        chain.fill(TABLES, until="score")
    steering = [one for one in chain.work(TABLES) if one.step.name == "steer" and any(p.why for p in chain.parts(one))]
    words = ["table", "3", "--preset", "demo", "--out", str(out), "--seed", str(seed), "--until", "steer"]
    with beside(words) if len(steering) > 1 and not redo else nullcontext():
        chain.fill(TABLES)
    with claim_run(out):
        chain.finish()


@contextmanager
def beside(words: Sequence[str]) -> Iterator[None]:
    """Run another `ard` on the same folder beside this one: steering takes small steps, one after the other.

    Each has half of the cores; a lone core is not shared, nor a GPU. The other one is ended with this one, which does
    what is left, should the other fail.
    """
    num_threads = torch.get_num_threads()
    if num_threads < 2 or torch.cuda.is_available():
        yield
        return
    half = num_threads // 2
    command, environment = [sys.executable, "-m", "ard", *words], os.environ | {"OMP_NUM_THREADS": str(half)}
    other = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    torch.set_num_threads(half)
    try:
        yield
        other.wait(LAST_WORDS_S)
    except subprocess.TimeoutExpired:
        pass  # it is ended below
    finally:
        torch.set_num_threads(num_threads)
        other.terminate()
        other.wait()


def table(
    number: int,
    preset: str = "demo",
    out: Path | None = None,
    seed: int = 0,
    *,
    cells: str | None = None,
    until: str | None = None,
    redo: list[str] = [],  # noqa: B006
    dry_run: bool = False,
    run: dict[str, Any] | None = None,
) -> None:
    """Run the missing steps of table N, and write it.

    Args:
        number: 1, 2, 3 or 4.
        preset: a folder of `configs`, or the path of one of your own.
        out: the run's folder, ``runs/<preset>`` if not given.
        seed: seed of the sounds, the SAEs and every draw.
        cells: work on these cells alone, as layer/expansion: ``5/8,26/16``. Other processes may work on other cells of
            the run at the same time; tables are written by a later call without ``--cells``.
        until: the last step to do, such as ``extract``; tables are not written.
        redo: steps to do again even if they are done: audio, extract, fit, test, score, steer.
        dry_run: list the steps, which of them are done, and why the others are not; nothing is run.
        run: facts that differ from those in the preset's run.yaml, such as ``--run.root /data`` or ``--run.layer 16``.
    """
    goal = check_table(number)
    if until is not None:
        check_steps([until])
    chain = Chain(preset, table_facts(preset, out, seed, run), redo, None if cells is None else _cells(cells))
    if dry_run:
        for line in chain.list_work([goal]):
            Console().print(line, markup=False, highlight=False, soft_wrap=True)
    elif cells is not None or until is not None:
        chain.fill([goal], until=until)
    else:
        with claim_run(chain.run.folder):
            chain.fill([goal])
            chain.finish(goal)


def check_table(number: int) -> TableNumber:
    """Return the number of a table of the paper.

    Raises:
        UserError: if it is none.
    """
    if number not in TABLES:
        raise UserError(f"table {number} cannot be made: there are tables 1, 2, 3 and 4")
    return number


def _cells(words: str) -> list[tuple[int, int]]:
    """Return the layers and expansions that ``--cells`` names."""
    if not re.fullmatch(r"\d+/\d+(,\d+/\d+)*", words):
        raise UserError(f"cells {words!r} are not layers and expansions: give them like 5/8,26/16")
    pairs = (word.split("/") for word in words.split(","))
    return [(int(layer), int(expansion)) for layer, expansion in pairs]


def run(
    audio: Path,
    model: str | None = None,
    out: Path = Path("runs/mine"),
    *,
    preset: str = "laptop",
    clap: str | None = None,
    labels: Path | None = None,
    label_column: str | None = None,
    events: Path | None = None,
    namer: str | None = None,
    held_out: float | None = None,
    layer: int | None = None,
    layers: list[int] | None = None,
    layers_path: str | None = None,
    window: str | None = None,
    expansion: int | None = None,
    k: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    redo: list[str] = [],  # noqa: B006
) -> None:
    """Run the whole method on a folder of your own sounds: named concepts with audio players.

    Args:
        audio: a folder of sound files, at any depth, or one file.
        model: an AudioLLM or an audio encoder (Whisper, wav2vec 2.0, HuBERT, WavLM, AST, CLAP's), a local folder or hub
            id; by default the preset's, Whisper base. ``embedded`` is the small AudioLLM that comes with ard, which
            knows simulated sounds alone.
        out: the run's folder.
        preset: a folder of `configs`, or the path of one of your own.
        clap: a CLAP model, a local folder or hub id, by default the preset's; ``embedded`` is the small one that comes
            with ard; ``computed:FOLDER`` has embeddings made elsewhere; ``none`` leaves out what needs one.
        labels: a CSV or parquet file with the labels of clips; they are then what names are tested with (Table 1).
        label_column: its column, if it is not `label` or `labels`.
        events: when something is heard in the clips: a table as of AudioSet's strong labels or DESED, or a folder of
            TextGrids; concepts are then measured in time on the held-out clips.
        namer: what names are made from: ``vocabulary``, ``labels``, or ``captions`` of a model that answers; or a text
            file with a vocabulary of your own, one phrase a line. By default captions if the model answers, else the
            class names of AudioSet; without a CLAP model that reads texts, the labels.
        held_out: share of the clips that nothing is trained on and no name is made from, drawn by the seed; names and
            the reconstruction are tested on these. By default a quarter, or none of fewer than 40 files.
        layer: the layer, 0-based, whose concepts are named; by default the middle one of ``layers``, or of an encoder,
            or the one of a decoder at the depth of the paper's layer 26 of 32.
        layers: all layers that get an SAE, for Table 4; by default ``layer`` alone.
        layers_path: module path of the layers, if not the decoder's or, of an encoder, its own (docs/families.md).
        window: `clip` leaves out the padding that Whisper and AST would compute: faster, but another model.
        expansion: e, features of the SAE per dimension of the model; by default the preset's.
        k: features that a token keeps; by default the preset's.
        steps: steps of the training; by default so many passes over the tokens, within limits.
        seed: seed of the held-out clips, the SAE and every draw.
        redo: steps to do again even if they are done: audio, extract, fit, test, score.
    """
    refuse_inside(audio, out)
    if held_out is not None and not 0 <= held_out < 1:
        raise UserError(f"held_out {held_out} is out of range: give a share from 0 to below 1")
    stated = preset_facts(preset, {})
    model, clap = model or stated.model, stated.clap if clap is None else clap
    clap = None if clap == "none" else clap
    text_clap = None if clap is None or clap.startswith(COMPUTED) else clap
    _check_namer(namer, labels=labels is not None, text_clap=text_clap is not None)
    whole = FolderClips(audio, labels=labels, label_column=label_column, events=events)
    sources = _sources(whole, held_out, seed)
    ensure_models([model, clap])
    audiollm = load_audiollm(model, device="meta", layers_path=layers_path, window=window)
    for source in sources.values():
        source.segment_s = min(audiollm.prompter.window_s, LONGEST_S)
    chosen = choose_layer(audiollm, layer, layers)
    facts = {
        "out": str(out),
        "seed": seed,
        "model": model,
        "clap": clap,
        "text_clap": text_clap,
        "d_in": audiollm.d_in,
        "data": _describe(sources["probe"]),
        "audio": {"made": [{"source": "mixed", "root": "${run.out}/audio/eval", "seed": seed}]}
        if "eval" in sources
        else {},
        "layers_path": layers_path,
        "window": window,
        "layers": sorted({chosen, *(layers or [])}),
        "layer": chosen,
        "expansions": [expansion or stated.expansion],
        "expansion": expansion or stated.expansion,
        "k": k or stated.k,
        "tasks": [],
        **_naming(namer, audiollm, labels=labels is not None, text_clap=text_clap is not None),
        **({} if "eval" in sources else {"evaluation": None}),
    }
    goals: tuple[Goal, ...] = (1, 4, "concepts") if labels and "eval" in sources else (4, "concepts")
    with claim_run(out):
        chain = Chain(preset, facts, redo)
        _set_steps(chain, steps)
        chain.check(goals)
        _show_plan(sources, audiollm, chain, goals, steps)
        for split, source in sources.items():
            chain.write_audio(split, source)
        manifest = read_audio_manifest(chain.run.audio("probe"))
        if manifest.num_clips < LEAST_CLIPS:
            chain.report_failures()
            raise UserError(
                f"{manifest.num_clips} usable clips in {str(audio)!r} to train on, at least {LEAST_CLIPS} are needed: "
                f"see {chain.run.failures} for what was left out and why"
            )
        chain.change(p=min(stated.p, manifest.num_clips // 2))
        chain.fill(goals, until="extract")
        _set_steps(chain, steps)
        chain.fill(goals)
        chain.finish()


def _sources(whole: FolderClips, held_out: float | None, seed: int) -> dict[str, FolderClips]:
    """Return the sounds to train on, and those that are held out, if any."""
    if held_out is None:
        held_out = HELD_OUT if len(whole) >= LEAST_TO_HOLD_OUT else 0.0
    if not held_out:
        return {"probe": whole}
    probe, evaluation = whole.parts(held_out, seed)
    if not len(evaluation):
        raise UserError(
            f"held_out {held_out} of {len(whole)} files holds none out, since those of a group stay together: give a "
            "larger share, 0 or another seed"
        )
    return {"probe": probe, "eval": evaluation}


def _describe(source: FolderClips) -> str:
    """Return what the clips are, which changes if any of them does."""
    folder = f"the sounds in {source.root.resolve().name!r} ({source.fingerprint()})"
    return folder if source.part is None else f"{folder}, {source.held_out_share:g} held out by seed {source.seed}"


def _check_namer(namer: str | None, *, labels: bool, text_clap: bool) -> None:
    """Refuse a namer without what it needs, before anything is fetched."""
    if namer == "labels" and not labels:
        raise UserError("namer 'labels' needs the labels of clips: give --labels FILE.csv, or another --namer")
    if not text_clap and not (namer == "labels" or (namer is None and labels)):
        raise UserError("names need a CLAP model that reads texts, or labels: give --clap, or --labels FILE.csv")
    if namer not in (None, "labels", "captions"):
        read_vocabulary(_vocabulary(namer))


def _vocabulary(namer: str) -> str:
    return "audioset" if namer == "vocabulary" else namer


def _naming(namer: str | None, audiollm: AudioLLM, *, labels: bool, text_clap: bool) -> dict[str, Any]:
    """Return the facts that say what names are made from, and how they are compared with labels."""
    answers = audiollm.answers
    if namer is None:
        namer = "labels" if labels and not text_clap else "captions" if answers else "vocabulary"
    if namer == "labels":
        return {"namer": {"class_path": "ard.naming.LabelNamer"}, "captioner": None, **_compared("exact")}
    if namer == "captions":
        if not answers:
            raise UserError(f"namer 'captions' needs a model that answers, and {audiollm.name!r} is an encoder")
        return {"namer": None, "captioner": audiollm.name, **_compared("clap")}
    init_args = {"vocabulary": _vocabulary(namer)}
    made = {"class_path": "ard.naming.VocabularyNamer", "init_args": init_args}
    return {"namer": made, "captioner": None, **_compared("clap")}


def _compared(similarity: str) -> dict[str, str]:
    """Return the facts that say how names and labels are compared in Table 1, and how beside it."""
    return {"similarity": similarity, "other_similarity": "clap" if similarity == "exact" else "exact"}


def _steps(num_tokens: int, batch_tokens: int) -> int:
    """Return the steps of a training: so many passes over the tokens, within limits."""
    return min(max(round(PASSES * num_tokens / batch_tokens), LEAST_STEPS), MOST_STEPS)


def _set_steps(chain: Chain, steps: int | None) -> None:
    """Set the steps of the training, which depend on the number of tokens: so they can be when these are extracted."""
    extracted = chain.run.activations("probe")
    if steps is None and (extracted / MANIFEST).is_file():
        steps = _steps(read_manifest(extracted).num_tokens, chain.setting("fit", "data", "batch_tokens"))
    if steps is not None:
        chain.change(steps=steps)


def _show_plan(
    sources: Mapping[str, FolderClips], audiollm: AudioLLM, chain: Chain, goals: Sequence[Goal], steps: int | None
) -> None:
    """Say what will be done and, of a small model, how long it takes, by timing a clip and two steps of a training."""
    facts, num_files = chain.facts, sum(map(len, sources.values()))
    held = f", {len(sources['eval']):,} of them held out" if "eval" in sources else ""
    made_from = "captions"
    if facts.namer is not None:
        made_from = import_class(facts.namer.class_path)(**facts.namer.get("init_args", {})).made_from
    lines = [
        f"{num_files:,} sound files in {sources['probe'].root.name!r}{held}",
        f"{audiollm.name}, layer {facts.layer} of {len(audiollm.layers)}, {audiollm.d_in} wide: an SAE of "
        f"{facts.expansion * audiollm.d_in:,} features, of which a token keeps {facts.k}",
        f"names from {made_from}" + ("; tested against the labels of the held-out clips" if 1 in goals else ""),
    ]
    size = sum(parameter.numel() for parameter in audiollm.model.parameters())
    begun = (chain.run.activations("probe") / MANIFEST).is_file()
    clips = () if begun or size > MOST_TIMED else sources["probe"]
    clip = next((clip for clip in clips if isinstance(clip, Clip)), None)
    if clip is not None:
        with at_work("timing a clip and two steps of the training"):
            duration = _spoken(_estimate_s(clip, num_files, chain, steps))
        lines.append(f"about {duration} if all files are like the first; Ctrl-C stops, the same command goes on")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _estimate_s(clip: Clip, num_files: int, chain: Chain, steps: int | None) -> float:
    """Return about how many seconds a run takes, by timing its parts on one clip."""
    facts = chain.facts
    audiollm = load_audiollm(facts.model, layers_path=facts.layers_path, window=facts.window)
    clap = None if facts.clap is None or facts.clap.startswith(COMPUTED) else load_clap(facts.clap)
    for _ in range(2):  # the first pass is slower than all others
        started = time.monotonic()
        num_tokens = len(audiollm.capture([clip], [facts.layer])[facts.layer][0])
        if clap is not None:
            clap.audio([clip])
        clip_s = time.monotonic() - started
    batch_tokens = chain.setting("fit", "data", "batch_tokens")
    sae = TopKSAE(audiollm.d_in, facts.expansion * audiollm.d_in, k=facts.k)
    x = torch.randn(batch_tokens, audiollm.d_in)
    started = time.monotonic()
    for _ in range(2):
        squared_error(x, sae(x)).backward()
    step_s = (time.monotonic() - started) / 2
    num_steps = steps or _steps(num_files * num_tokens, batch_tokens)
    return num_files * clip_s + num_steps * step_s + REST_S


def _spoken(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' if minutes > 1 else ''}" if minutes < 100 else f"{minutes / 60:.0f} hours"


def choose_layer(audiollm: AudioLLM, layer: int | None, layers: list[int] | None) -> int:
    """Return the layer whose concepts are named; refuse layers that do not exist."""
    num_layers = len(audiollm.layers)
    if layer is None and layers:
        layer = sorted(layers)[len(layers) // 2]
    if layer is None:
        layer = int(PAPER_LAYER * num_layers) if audiollm.answers else num_layers // 2
    audiollm.check_layers([layer, *(layers or [])])
    return layer
