"""What the commands do: each function is one, its docstring the help that the command line shows."""

from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from rich.console import Console

from ard.audio import SOURCES, FolderClips, check_audio_shards, read_audio_manifest, read_clip, write_audio_shards
from ard.audiollm import EMBEDDED, load_audiollm
from ard.chain import Chain, claim_run, console, say_failures, tracked, write_failures, write_split
from ard.evaluation import compare_seeds
from ard.files import claim, refuse_inside
from ard.plan import plan as plan_preset
from ard.plan import render_plan
from ard.presets import preset_facts, preset_files
from ard.reports import (
    Order,
    Run,
    concept_names,
    find_concepts,
    find_feature,
    render_concepts,
    write_report,
    write_tables,
)
from ard.representatives import read_maxima
from ard.results import Row
from ard.sae import TopKSAE
from ard.sae.formats import Format
from ard.sae.formats import convert as convert_sae
from ard.steering import Phase, Where, clamp_values, compare_answers
from ard.types import UserError

PAPER_LAYER = 26 / 32  # depth of the layer of Tables 1 to 3
LEAST_CLIPS = 4  # two in H^k and two in L^k
LONGEST_S = 30.0  # of a clip, also where a model would hear an hour at once
MOST_LINES = 20  # of a list that may have thousands


def demo(out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Run the whole method on the embedded default: Tables 1 to 4 in miniature and the HTML report.

    Args:
        out: the run's folder; a second call goes on where the first was stopped.
        seed: of the sounds, the SAEs and every draw.
    """
    with Chain("demo", {"out": str(out), "seed": seed}).begun() as chain:
        for table_number in (4, 1, 2, 3):
            chain.table(table_number)
        chain.finish()


def table(
    number: int, preset: str = "demo", out: Path | None = None, seed: int = 0, run: dict[str, Any] | None = None
) -> None:
    """Run what table N needs and is missing, and write it.

    Args:
        number: 1, 2, 3 or 4.
        preset: a folder of `configs`.
        out: the run's folder, ``runs/<preset>`` if not given.
        seed: of the sounds, the SAEs and every draw.
        run: facts that differ from those in the preset's run.yaml, such as ``--run.root /data`` or ``--run.layer 16``.
    """
    if number not in (1, 2, 3, 4):
        raise UserError(f"table {number} cannot be made: there are tables 1, 2, 3 and 4")
    known = preset_facts(preset, {})
    if unknown := sorted(set(run or {}) - set(known)):
        raise UserError(f"fact {unknown[0]!r} is not in the preset's run.yaml, which has {', '.join(sorted(known))}")
    facts = {"out": str(out or Path("runs") / preset), "seed": seed, **(run or {})}
    with Chain(preset, facts).begun() as chain:
        chain.table(number)
        chain.finish()


def run(
    audio: Path,
    model: str = EMBEDDED,
    out: Path = Path("runs/mine"),
    *,
    clap: str = EMBEDDED,
    layer: int | None = None,
    expansion: int = 8,
    k: int | None = None,
    seed: int = 0,
) -> None:
    """Run the whole method on a folder of your own sounds: named concepts with audio players.

    Args:
        audio: a folder of wav, flac, ogg or mp3 files, at any depth.
        model: a Qwen2-Audio-class model, a local folder or hub id; ``embedded`` is the small one that is shipped.
        out: the run's folder.
        clap: a CLAP model, a local folder or hub id; ``embedded`` is the small one that is shipped.
        layer: decoder layer, 0-based; by default the one at the depth of the paper's layer 26 of 32.
        expansion: e, features of the SAE per dimension of the model.
        k: features that a token keeps; by default the paper's share of the model's width, at least 16.
        seed: of the SAE and every draw.
    """
    source = FolderClips(audio)
    refuse_inside(audio, out)
    audiollm = load_audiollm(model)
    source.segment_s = min(audiollm.prompter.window_s, LONGEST_S)
    chosen = int(PAPER_LAYER * len(audiollm.layers)) if layer is None else layer
    if not 0 <= chosen < len(audiollm.layers):
        raise UserError(f"layer {chosen} does not exist in {model!r}: it has layers 0 to {len(audiollm.layers) - 1}")
    facts = {
        "out": str(out),
        "seed": seed,
        "model": model,
        "clap": clap,
        "d_in": audiollm.d_in,
        "audio": {},
        "layers": [chosen],
        "layer": chosen,
        "expansions": [expansion],
        "expansion": expansion,
        "k": k or max(16, audiollm.d_in * 250 // 4096),
        "evaluation": None,
        "embeddings": (embeddings := f"${{run.out}}/embeddings-{Path(clap).name}.safetensors"),
        "unseen": "probe",  # less the clips that names were made of
        "embeddings_unseen": embeddings,
        "tasks": [],
    }
    with claim_run(out):
        facts["data"] = f"the sounds in {audio.resolve().name!r} ({source.fingerprint()})"
        begun = out / "run.json"
        facts["p"] = Run.load(out).p if begun.is_file() else min(4, _write_sounds(source, out) // 2)
        with Chain("demo", facts).begun() as chain:
            chain.write_audio("probe", source)
            chain.table(4)
            chain.describe()
            chain.finish()


def _write_sounds(source: FolderClips, out: Path) -> int:
    """Write the audio shards of a run that has not begun, and return the number of its clips."""
    num_clips = write_split(out, "probe", source)
    if num_clips < LEAST_CLIPS:
        write_failures(out, read_audio_manifest(out / "audio" / "probe").failures)
        raise UserError(
            f"{num_clips} usable clips in {str(source.root)!r}, at least {LEAST_CLIPS} are needed: "
            f"see {out / 'failures.json'} for what was left out and why"
        )
    return num_clips


def shards(chosen: Namespace) -> None:
    """Write a corpus as WebDataset audio shards, or check a set of them."""
    if chosen.check is not None:
        checked = check_audio_shards(chosen.check)
        for dataset, count in sorted(checked.num_clips.items()):
            Console().print(f"{dataset}: {count} clips", highlight=False)
        problems = checked.problems
        for problem in problems[:MOST_LINES]:
            console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
        if problems:
            shown = f", the first {MOST_LINES} of them above" if len(problems) > MOST_LINES else ""
            raise UserError(f"faults in {str(chosen.check)!r}: {len(problems)}{shown}; mend the source, write it anew")
        return
    if chosen.source is None:
        raise UserError(f"a source is missing: give one of {', '.join(SOURCES)}, or --check DIR")
    asked = chosen[chosen.source].as_dict()
    out = asked.pop("out")
    if "root" in asked:
        refuse_inside(asked["root"], out)
    written, failures = write_audio_shards(tracked(SOURCES[chosen.source](**asked), "audio"), out)
    say_failures(failures)
    console.print(f"{written} clips in {out}")


def plan(preset: str = "paper", gpu: str = "H100", utilisation: float = 0.4, out: Path | None = None) -> None:
    """Say what a preset will cost before anything runs: clips, tokens, bytes, FLOPs, hours, and if the disk holds it.

    Args:
        preset: a folder of `configs`.
        gpu: the GPU by name.
        utilisation: the share of the GPU's peak that is reached.
        out: the run's folder, ``runs/<preset>`` if not given; what it holds already is not counted again.
    """
    folder = out or Path("runs") / preset
    facts = preset_files(preset, {"out": str(folder)}, ("extract", "fit", "test", "steer"))
    Console().print(render_plan(plan_preset(facts, gpu=gpu, utilisation=utilisation, disk=folder)))


def convert(src: str, dst: Path, to: Format) -> None:
    """Write an SAE in the format of another library: SAELens, sparsify or dictionary_learning.

    Args:
        src: folder or hub id of an SAE in any of the formats, which its files tell.
        dst: a new folder.
        to: the format.
    """
    convert_sae(src, dst, to)
    console.print(f"{to}: {dst}", highlight=False)


def report(run: Path) -> None:
    """Write the tables and the HTML report of a run's folder again, from its files alone.

    Args:
        run: the run's folder.
    """
    if not (run / "run.json").is_file():
        raise UserError(f"{str(run)!r} is not the folder of a run (no run.json): make one with `ard demo` or `ard run`")
    with claim(run):
        write_tables(run)
        Console().print(f"report: {write_report(run)}", soft_wrap=True)


def concepts(
    run: Path,
    *,
    search: str = "",
    sort: Order = "m",
    layer: int | None = None,
    expansion: int | None = None,
    most: int = MOST_LINES,
) -> None:
    """List the named concepts of a run, searched by a word and sorted.

    Args:
        run: the run's folder.
        search: a word in their names or captions.
        sort: by this column, best first.
        layer: of the dictionary, if not the run's own.
        expansion: of the dictionary, if not the run's own.
        most: lines to show.
    """
    about = Run.load(run)
    chosen = (about.layer if layer is None else layer, about.expansion if expansion is None else expansion)
    found = find_concepts(about, *chosen, search, sort)
    Console().print(render_concepts(found[:most]))
    console.print(f"{len(found[:most])} of {len(found)} concepts, layer {chosen[0]}, expansion {chosen[1]}")


def seeds(runs: list[Path], cosine: float = 0.7) -> None:
    """Say which concepts of a run come back in others with another --seed: Table 4 then notes it.

    Args:
        runs: folders of runs; the first is held against all others.
        cosine: least cosine of the decoder directions of two features that are taken for the same.
    """
    of_runs = [Run.load(run) for run in runs]
    first = of_runs[0]
    row = Row("AR&D", first.layer, first.expansion, {})
    with claim(runs[0]):
        result = compare_seeds([run.own_folder for run in of_runs], row, cosine=cosine)
        write_tables(runs[0])
    figures = result.rows[0].figures
    for concept in result.details["concepts"][:MOST_LINES]:
        partners = ", ".join(
            f"{where['name'] or where['feature']} ({where['cosine']:.2f})" for where in concept["elsewhere"]
        )
        line = f"{concept['name'] or concept['feature']}: {partners}"
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    for name, said in (
        ("come_back", f"of {{n}} concepts come back in all other runs, by a direction of cosine {cosine} or more"),
        ("come_back_shuffled", "would if coordinates meant nothing: shuffled"),
        ("name_comes_back", "of {n} names come back in all other runs"),
    ):
        if name in figures:
            figure = figures[name]
            shown = f"{figure.value:.0%} [{figure.low:.0%}, {figure.high:.0%}] {said.format(n=figure.n)}"
            console.print(shown, highlight=False, soft_wrap=True)


def steer(
    run: Path,
    audio: Path,
    value: float | list[float],
    prompt: str,
    *,
    feature: int | list[int] | None = None,
    name: str | None = None,
    unit: Literal["absolute", "max"] = "absolute",
    layer: int | None = None,
    expansion: int | None = None,
    positions: Where = "all",
    phase: Phase = "prefill",
    keep_error: bool = False,
    max_new_tokens: int = 64,
) -> None:
    """Ask the run's model about a clip without and with features set to a value, and print the answers.

    Args:
        run: the run's folder.
        audio: the clip, a wav, flac, ogg or mp3 file.
        value: what the feature is set to, 0 or more; a list has one for each feature.
        prompt: the question.
        feature: the feature by its number, or several as [12,40].
        name: the feature by its name, in the place of its number.
        unit: `max` makes a value of 1 the feature's maximum on the probing set.
        layer: of the dictionary, if not the run's own.
        expansion: of the dictionary, if not the run's own.
        positions: where in the prompt features are set.
        phase: set them in the prompt, or at every token of the answer too.
        keep_error: add the change that the features make and leave all else, in the place of what the SAE rebuilds.
        max_new_tokens: longest answer.
    """
    about = Run.load(run)
    cell = (about.layer if layer is None else layer, about.expansion if expansion is None else expansion)
    folder = about.sae_folder(*cell)
    sae, maxima, names = TopKSAE.from_pretrained(folder / "sae"), read_maxima(folder), concept_names(about, *cell)
    if (feature is None) == (name is None):
        raise UserError("which feature? Give either --feature, its number, or --name")
    chosen = feature if feature is not None else find_feature(names, str(name))
    features = chosen if isinstance(chosen, list) else [chosen]
    if len(set(features)) < len(features) or max_new_tokens < 1:
        raise UserError(
            f"features {features}, {max_new_tokens} new tokens: give every feature once, and at least 1 token"
        )
    values = value if isinstance(value, list) else [value] * len(features)
    if len(values) != len(features):
        raise UserError(f"{len(values)} values are given for {len(features)} features: give one for all, or one each")
    clamp = clamp_values(sae, dict(zip(features, values, strict=True)), maxima if unit == "max" else None)
    clip, model = read_clip(audio), load_audiollm(about.model)
    if clip.duration_s > model.prompter.window_s:
        console.print(f"only the first {model.prompter.window_s:g} s of {audio.name!r} are heard", markup=False)
    answers = compare_answers(
        model,
        sae,
        cell[0],
        clamp,
        clip,
        prompt,
        positions=positions,
        phase=phase,
        keep_error=keep_error,
        max_new_tokens=max_new_tokens,
    )
    said = [f"feature {f} ({names.get(f, 'no name')}): {v:g}, maximum {maxima[f]:g}" for f, v in clamp.items()]
    for line in [*said, *(f"{how}: {answer}" for how, answer in answers.items())]:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
