"""The pages keep their word: commands and Python lines run, links lead somewhere, figures come from files."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from statistics import mean

import pytest
import soundfile
import wandb
from safetensors.torch import load_file

from ard.audio import SyntheticCorpus
from ard.cli import main
from ard.files import LOCK, TURN
from ard.reports import paper
from experiments import checks, families, results, steered
from experiments.bench import report as bench

pytestmark = pytest.mark.slow

HOME = Path(__file__).parent.parent
PAGES = sorted([HOME / "README.md", *HOME.glob("docs/*.md"), *HOME.glob("experiments/*/README.md")])
HAND_WRITTEN = [
    page
    for page in PAGES
    if page.name
    not in ("bench.md", "bench-gpu.md", "families.md", "null.md", "plan.md", "real.md", "training.md", "truth.md")
]
KEPT = json.loads(results.KEPT.read_text(encoding="utf-8"))
STEERED = json.loads(steered.KEPT.read_text(encoding="utf-8"))
CHECKED = json.loads(checks.KEPT.read_text(encoding="utf-8"))

CHEAP = ("concepts", "jobs", "report", "tables", "runs", "plan", "steer", "seeds", "shards --check")  # really run
PLACEHOLDERS = {"FILE": "my-sounds/dog.wav", "V": "2", "TEXT": "What do you hear?"}

CONSTANTS = {
    "0.5": "AUROC at chance",
    "0.7": "cosine of directions that are taken for the same; temperature of an example",
    "0.9": "AUROC from which a label counts as found",
    "1.5": "minutes of the features in experiments/embedded: no file has them",
    "1.6": "millions of parameters of the embedded AudioLLM, on its card",
    "2.0": "of wav2vec 2.0",
    "4.0": "recall over precision of the paper's Table 1",
    "1.0": "recall over precision of the paper's Table 1",
    "1.2": "recall over precision of the paper's Table 1",
    ".04": "200 classes over 5,000 names",
    "3.11": "Python",
    "9.3": "the paper's plateau of m",
    "5 %": "the false-discovery rate",
    "95 %": "the intervals",
    "2602.22253": "arXiv, as are the next two",
    "2602.14111": "sanity checks for SAEs",
    "2501.17727": "untrained models",
    "2505.20063": "output scores",
    "2602.11488": "ALME",
    "2501.17148": "AxBench",
}
"""Every decimal figure and percentage that stands outside the generated blocks, but for those that the paper prints."""


def text(page):
    return page.read_text(encoding="utf-8")


def names(pages):
    return [str(page.relative_to(HOME)) for page in pages]


def commands(page):
    """Return the command lines of a page, without comments."""
    blocks = re.findall(r"^```\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE)
    lines = [line.partition(" && ")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(make|ard|\.venv/bin/\w+) ", line)]


EMBEDDED = ("--model", "embedded", "--clap", "embedded")  # no hub is reached here
TESTED_APART = HOME / "docs/extending.md"  # its commands want the page's own modules: tests/test_extending.py
RUNNABLE = list(dict.fromkeys(tuple(line) for page in HAND_WRITTEN if page != TESTED_APART for line in commands(page)))
OWN = [line for line in RUNNABLE if Path(line[0]).name == "ard"]
RUN_BY_TEST = [line for line in OWN if " ".join(line[1:]).startswith(CHEAP) and "voice.wav" not in line]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder as a user has it after README's commands: sounds, and runs of them on the embedded models."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "my-sounds").mkdir()
    for place, clip in enumerate(SyntheticCorpus("readme", 8, speech_share=0.5)):
        name = "dog" if place == 0 else clip.id
        soundfile.write(desk / "my-sounds" / f"{name}.wav", clip.waveform, clip.sample_rate_hz)
    (desk / "configs").symlink_to(HOME / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        wandb.teardown()  # its service writes into the folder that it was started in
        main(["run", "--audio", "my-sounds", "--out", "runs/demo", *EMBEDDED, "--layer", "3"])
    for other in ("demo-1", "demo-2", "mine"):
        shutil.copytree(desk / "runs/demo", desk / "runs" / other, ignore=shutil.ignore_patterns("wandb"))
    return desk


@pytest.fixture
def at_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    return desk


@pytest.mark.parametrize("line", RUN_BY_TEST, ids=" ".join)
def test_a_cheap_command_runs(line, at_desk, capsys):
    maxima = load_file("runs/mine/layer-3/e8/representatives.safetensors")["max_activation"]
    given = {**PLACEHOLDERS, "K": str(int(maxima.argmax()))}
    main([given.get(word, word) for word in line[1:]])
    assert "".join(capsys.readouterr()).strip()


@pytest.mark.parametrize(
    "line", [line for line in OWN if line not in RUN_BY_TEST and line[1] != "extract"], ids=" ".join
)
def test_a_command_that_takes_long_has_the_options_that_it_is_given(line, capsys):
    depth = 2 if line[1] in ("study", "shards") and not line[2].startswith("-") else 1
    with pytest.raises(SystemExit) as stopped:
        main([*line[1 : 1 + depth], "--help"])
    assert stopped.value.code == 0
    described = capsys.readouterr().out
    for word in line[1 + depth :]:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", described), word


@pytest.mark.parametrize(
    "line", [line for line in RUNNABLE if Path(line[0]).name == "lightning" or line[1] == "extract"], ids=" ".join
)
def test_a_yaml_file_is_parsed_by_its_command(line, at_desk, capsys):
    given = [word for word in line[1:] if word != "--dry-run"]
    with pytest.raises(SystemExit) as stopped:
        main([*given, "--print_config"])
    assert stopped.value.code == 0
    assert "class_path: ard." in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in RUNNABLE if line[0] == "make"], ids=" ".join)
def test_a_make_target_is_there(line):
    subprocess.run([line[0], "-n", *line[1:]], cwd=HOME, check=True, capture_output=True)


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=names(HAND_WRITTEN))
def test_a_module_that_a_page_runs_is_there(page):
    for module in re.findall(r"python -m ([\w.]+)", text(page)):
        assert importlib.util.find_spec(module), module


def test_the_python_lines_of_the_readme_run(at_desk, capsys):
    (lines,) = re.findall(r"```python\n(.*?)```", text(HOME / "README.md"), re.DOTALL)
    exec(lines, space := {})
    assert len(space["best"]["top_ids"]) == 4
    name, answers = capsys.readouterr().out.splitlines()
    assert name.startswith(space["best"]["name"])
    assert answers.startswith("['")


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", text(target), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads], link


def test_the_tree_of_the_readme_is_the_tree():
    (tree,) = re.findall(r"^ard/\n(.*?)^```", text(HOME / "README.md"), re.DOTALL | re.MULTILINE)
    drawn = re.findall(r"^  (\w[\w.]*/?)", tree, re.MULTILINE)
    there = [path for path in (HOME / "ard").iterdir() if path.name[0] not in "_." and path.name != "py.typed"]
    assert sorted(drawn) == sorted(path.name + "/" * path.is_dir() for path in there)
    for folder in re.findall(r"^(\w+)/", tree, re.MULTILINE):
        assert (HOME / folder).is_dir()


def test_the_index_has_every_page():
    assert sorted(re.findall(r"^\| \[([\w-]+\.md)\]", text(HOME / "docs/README.md"), re.MULTILINE)) == sorted(
        page.name for page in HOME.glob("docs/*.md") if page.name != "README.md"
    )


def test_the_glossary_is_in_alphabetical_order():
    words = re.findall(r"^\| `?(.*?)`? \|", text(HOME / "docs/glossary.md").partition("| symbol |")[0], re.MULTILINE)
    assert words[2:] == sorted(words[2:], key=str.casefold)
    assert len(words) > 30


def test_every_file_of_a_run_is_explained(desk):
    rows = re.findall(r"^\| (`.*?) \|", text(HOME / "docs/run.md"), re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    run, cell = desk / "runs/demo", desk / "runs/demo/layer-3/e8"
    written = {path.name + "/" * path.is_dir() for path in [*run.iterdir(), *cell.iterdir()]}
    written = {".<file>.lock" if TURN.fullmatch(name) and name != LOCK else name for name in written}
    written -= {"layer-3/", "report/", "tables/", "audio/", "embeddings-embedded.safetensors"}
    assert written <= explained
    assert {"layer-<l>/e<e>/", "audio/<split>/", "report/index.html", "embeddings-<clap>.safetensors"} <= explained


@pytest.fixture(scope="module")
def blocks():
    return results.blocks(KEPT)


@pytest.mark.parametrize("page", results.PAGES, ids=names(results.PAGES))
def test_measured_figures_are_those_of_results_json(page, blocks):
    assert results.fill(text(page), blocks) == text(page), "run `python -m experiments.results`"


def test_every_block_is_shown_and_made(blocks):
    shown = [block["name"] for page in PAGES for block in results.BLOCK.finditer(text(page))]
    held_by_others = ["hearing", "namers", "real", *checks.blocks(CHECKED)]  # in tests/experiments
    assert sorted(shown) == sorted([*blocks, *held_by_others])
    assert sum(text(page).count("<!-- end -->") for page in PAGES) == len(shown)


def test_benchmarks_are_those_of_bench_json():
    assert text(HOME / "docs/bench.md") == bench.page(json.loads(text(HOME / "docs/bench.json")))


def test_the_page_of_families_has_the_words_of_its_template():
    page = text(HOME / "docs/families.md")
    for part in re.split(r"\{\w+\}", families.PAGE):
        assert part in page


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=names(HAND_WRITTEN))
def test_no_figure_is_typed_by_hand(page):
    allowed = set(CONSTANTS)
    if page.parent.name.startswith("table"):
        printed = [*paper.TABLE1.values(), *paper.TABLE2.values(), *paper.TABLE3.values(), *paper.TABLE4.values()]
        of_paper = {f"{figure.value:.2f}" for row in printed for figure in row.values()}
        allowed |= of_paper | {figure.removeprefix("0") for figure in of_paper}
    prose = results.BLOCK.sub("", text(page))
    prose = re.sub(r"^```.*?^```|`[^`]*`|\]\([^)]*\)", "", prose, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"\d+ %|\d*\.\d+", prose)) <= allowed


def value(seed, *key):
    """Return a figure of the run of a seed, by table, method, where and metric."""
    (run,) = [run for run in KEPT["runs"] if run["seed"] == seed]
    (figure,) = [entry for entry in results.entries(run) if entry[:4] == key]
    return figure.value


OWN_CELL, SAD, ANGRY, NEUTRAL = "l = 3, e = 8", "sad to happy", "happy to angry", "neutral to happy"
MALE = "female to male"
SHIFTS = (NEUTRAL, SAD, ANGRY, MALE)


def turned(seed, method, shift):
    """Return the sensitivity of a row, the mean over a control's draws, in docs/steered.json."""
    (run,) = [run for run in STEERED["runs"] if run["seed"] == seed]
    return mean(row[2] for row in run["rows"] if row[:2] == [method, shift])


def over_seeds(method, shift):
    """Return the mean of a row over the seeds."""
    return mean(turned(run["seed"], method, shift) for run in STEERED["runs"])


def claim(shift, other):
    """Return in how many runs AR&D is above and below a row."""
    (found,) = [
        one for one in STEERED["claims"] if (f"{one['source']} to {one['target']}", one["other"]) == (shift, other)
    ]
    return found


def left(method, column):
    """Return what is left at a method's setting, over shifts and seeds: of other answers (0), of sounds (1)."""
    return mean(of[method][column] for run in STEERED["runs"] for of in run["left"].values())


HALVES = "m, halves of the clips"


def verdicts(figure):
    """Return what the runs' gains say of a figure."""
    return {gain[1] for run in KEPT["runs"] for gain in run["gains"] if gain[0] == figure}


@pytest.mark.parametrize("number", [1, 3, 4])
def test_untrained_dictionaries_stand_in_every_table(number):
    for method in ("Untrained SAE", "Random tokens", "Poly. Feats., half-waves"):
        assert any(line.startswith(f"| {method} |") for line in KEPT["tables"][str(number)])


def reading(words, method):
    """Return F1 and mAP of a method under a reading."""
    (found,) = [row["figures"][method] for row in KEPT["readings"] if row["reading"] == words]
    return tuple(found)


CLAIMS = {
    "F1 tells the trained dictionary from untrained ones on every seed; the highest m": lambda: (
        verdicts("F1 (Table 1)") == {"better"} and "better" not in verdicts("highest m (Table 4)")
    ),
    "On every seed training gives better names (F1, mAP), features that say a label alone (absorption, AUROC), and a "
    "score m that agrees on two halves of the clips": lambda: all(
        verdicts(figure) == {"better"}
        for figure in ("F1 (Table 1)", "mAP (Table 1)", "absorption, less is better", "label AUROC", HALVES)
    ),
    "It does not give a higher m, nor more features above chance, nor better detection": lambda: all(
        "better" not in verdicts(figure)
        for figure in ("highest m (Table 4)", "m of the top fifth", "share above chance", "detection by name")
    ),
    "they rank unseen clips better than the trained SAE, and their best feature for a label is as good": lambda: (
        value(0, 0, "Random tokens", OWN_CELL, "auroc") > value(0, 0, "AR&D", OWN_CELL, "auroc")
        and value(0, 0, "Random tokens", OWN_CELL, "f1_k1") > value(0, 0, "AR&D", OWN_CELL, "f1_k1") - 0.01
        and value(0, 1, "Random tokens", OWN_CELL, "map") < value(0, 1, "AR&D", OWN_CELL, "map") - 0.05
    ),
    "`Mean Act.` is a little ahead of AR&D* on seed 0": lambda: (
        0 < value(0, 1, "Mean Act.", OWN_CELL, "f1") - value(0, 1, "AR&D", OWN_CELL, "f1") < 0.05
    ),
    "random dictionaries turn more answers on Neutral → Happy than the trained one does on seeds 0 and 1": lambda: all(
        value(seed, 3, "Untrained SAE", NEUTRAL, "sensitivity") > value(seed, 3, "AR&D", NEUTRAL, "sensitivity")
        for seed in (0, 1)
    ),
    "Only Female → Male needs training, and not on every seed": lambda: (
        verdicts("steering (Table 3), female to male") == {"better", "not told apart"}
    ),
    "The difference of the class means turns more answers than named features, on every shift": lambda: all(
        over_seeds("Difference of means", shift) > over_seeds("AR&D", shift) for shift in SHIFTS
    ),
    "so do features that are chosen by their effect, but for Sad → Happy on two seeds": lambda: (
        sum(turned(seed, "AR&D, by effect", SAD) < turned(seed, "AR&D", SAD) for seed in range(5)) == 2
        and all(over_seeds("AR&D, by effect", shift) > over_seeds("AR&D", shift) for shift in SHIFTS)
    ),
    "On seed 1 Happy → Angry does almost nothing, on seed 4 Female → Male nothing at all": lambda: (
        turned(1, "AR&D", ANGRY) < 0.05 and turned(4, "AR&D", MALE) == 0
    ),
    "By names, Female → Male turns no answer on seed 4, and Happy → Angry one in a hundred on seed 1": lambda: (
        turned(4, "AR&D", MALE) == 0 and round(turned(1, "AR&D", ANGRY), 2) == 0.01
    ),
    "by effect, nearly all and half": lambda: (
        [round(turned(*at), 2) for at in ((4, "AR&D, by effect", MALE), (1, "AR&D, by effect", ANGRY))] == [0.96, 0.55]
    ),
    "The difference of means turns nearly every answer on every shift and seed": lambda: all(
        turned(seed, "Difference of means", shift) > 0.95 for seed in range(5) for shift in SHIFTS
    ),
    "Among 100 of as much strength, AR&D's are above chance on at most one seed of five by shift": lambda: all(
        one.get("above", 0) <= 1 for one in STEERED["claims"] if one["other"] == "Rand. Feats."
    ),
    "By effect, random dictionaries are as good": lambda: all(
        claim(shift, "Untrained SAE, by effect").get("above", 0) <= 2 for shift in SHIFTS
    ),
    "On average about half of the answers to the other question stay when features are set, and a third": lambda: all(
        0.35 < left(method, 0) < 0.6 and 0.25 < left(method, 1) < 0.4 for method in ("AR&D", "AR&D, by effect")
    ),
    "If any score above 0 counts, F1 falls to a fraction": lambda: (
        reading("active from any score above 0", "AR&D")[0] < reading("as in the table", "AR&D")[0] / 2
    ),
    "The highest m is about that of random directions, at every depth and expansion": lambda: all(
        0.85
        < value(0, 4, "AR&D", f"l = {layer}, e = {e}", "ms") / value(0, 4, "Untrained SAE", f"l = {layer}, e = 8", "ms")
        < 1.15
        for layer in (1, 3, 4)
        for e in (4, 8, 16)
    ),
    "At an equal share of the features m falls with the expansion, at every layer": lambda: all(
        value(0, 4, "AR&D", f"l = {layer}, e = {small}", "mean_ms_top_share")
        > value(0, 4, "AR&D", f"l = {layer}, e = {large}", "mean_ms_top_share")
        for layer in (1, 3, 4)
        for small, large in ((4, 8), (8, 16))
    ),
    "Few concepts of one SAE have a direction of cosine 0.7 or more in all others": lambda: (
        value(1, 1, "AR&D", OWN_CELL, "f1") > 0
        and value(0, 0, "AR&D", OWN_CELL, "come_back") < 0.2 < 0.8 < value(0, 0, "AR&D", OWN_CELL, "name_comes_back")
    ),
    "`Reverse` of Sad → Happy does nothing* on seed 0": lambda: value(0, 3, "Reverse", SAD, "sensitivity") == 0,
    "on seed 0 only seven are named after an angry voice": lambda: (
        sum(f["target"] == "angry" and "angry voice" in f["name"] for f in KEPT["runs"][0]["features"]) == 7
        and STEERED["runs"][0]["settings"][ANGRY]["AR&D"].startswith("8 features")
    ),
    "is named after a man's *sad* voice on seed 0 and yet is a man's voice in any mood": lambda: all(
        "sad" in f["name"] and f["among_all"][1] > 0.85
        for f in [next(f for f in KEPT["runs"][0]["features"] if f["target"] == "male")]
    ),
    "28 million audio tokens, 230 GB of activations a layer": lambda: (
        (planned := results.planned()).num_tokens // 10**6 == 28 and round(planned.bytes_per_layer, -10) == 230e9
    ),
}
"""What the pages say about measured figures in words, and whether docs/results.json bears it out."""


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_on_a_page_and_holds(claim):
    assert any(claim in " ".join(text(page).split()) for page in HAND_WRITTEN)
    assert CLAIMS[claim](), f"the figures of docs/results.json contradict: {claim}"
