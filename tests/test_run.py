"""A run's folder: where its files lie, and that this is said in one place."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

import ard
from ard.results import Figure, Result
from ard.run import FILES, Cell, Run, readable
from ard.types import UserError

FACTS = {
    "preset": "demo",
    "seed": 3,
    "model": "m",
    "data": "clips",
    "layers": [1, 3],
    "expansions": [4, 8],
    "layer": 3,
    "expansion": 8,
    "p": 4,
    "num_selected": 12,
}
ELSEWHERE = {"sae/formats.py", "activations/store.py", "audio/shards.py"}  # files inside their own folders
RESULTS = (
    "detection gain input_norms label_auroc loss_recovered matching matching_paper modality monosemanticity naming"
)
OWN = {
    *FILES.values(),
    *(f"{result}.json" for result in f"{RESULTS} name_similarity probes seeds stated_labels steering study".split()),
    "answers.jsonl",
    "captions.parquet",
    "clips.parquet",
    "failures.json",
    "index.html",
    "run.json",
    "stamps",
    "study.sqlite",
}
"""What lies in a run's folder."""


def write_facts(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({**FACTS, **changes}), encoding="utf-8")


def test_every_path_lies_where_the_contract_says():
    run = Run(Path("out"))
    assert str(run.audio("steer")) == "out/audio/steer"
    assert [str(run.activations(split)) for split in ("probe", "eval")] == ["out/activations", "out/activations-eval"]
    assert str(run.embeddings("laion/clap", "probe")) == "out/embeddings-laion--clap.safetensors"
    assert str(run.embeddings("embedded", "eval")) == "out/embeddings-embedded-eval.safetensors"
    own = (run.path, run.clips, run.captions, run.answers, run.failures, run.study, run.report, run.table(2, "md"))
    assert [str(path.relative_to("out")) for path in own] == [
        "run.json",
        "clips.parquet",
        "captions.parquet",
        "answers.jsonl",
        "failures.json",
        "study/study.sqlite",
        "report/index.html",
        "tables/table2.md",
    ]
    cell, poly = run.cell(3, 8), run.cell(3, None)
    assert [str(of.folder) for of in (cell, poly)] == ["out/layer-3/e8", "out/layer-3/poly"]
    assert str(cell.sae) == "out/layer-3/e8/sae"
    assert str(cell.path("selections")) == "out/layer-3/e8/monosemanticity.safetensors"
    assert str(cell.result_path("matching")) == "out/layer-3/e8/matching.json"
    assert str(cell.stamp("MatchLabels")) == "out/layer-3/e8/stamps/MatchLabels.json"
    assert str(run.stamp("extract-eval")) == "out/stamps/extract-eval.json"
    assert (cell.method, poly.method) == ("AR&D", "Poly. Feats.")
    assert (cell.name, poly.name) == ("layer 3, expansion 8", "layer 3, Poly. Feats.")


def test_facts_are_read(tmp_path):
    write_facts(tmp_path, activations="pipe:aws cat x", evaluation=None)
    run = Run.load(tmp_path)
    assert (run.preset, run.seed, run.layers, run.expansions, run.p) == ("demo", 3, (1, 3), (4, 8), 4)
    assert run.own == run.cell(3, 8)
    assert run.own.splits == {"probe": "pipe:aws cat x"}
    assert run.own.unseen == "probe"
    with pytest.raises(UserError, match=r"it lacks 'clap'\): run `ard demo`"):
        run.fact("clap")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "holds no run.json: give the --out folder of `ard demo` or `ard run`"),
        ('{"preset": "demo", ', r"run.json' is damaged \(.*\): run `ard demo` or `ard run` again"),
        ("[1, 2]", "is not a run.json of ard: run `ard demo` or `ard run` again"),
        ("{}", r"is not a run.json of ard \(it lacks 'preset'\): run"),
        (json.dumps({**FACTS, "p": None} | {"seed": 1}).replace('"p": null, ', ""), r"it lacks 'p'\)"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path, content, said):
    if content is not None:
        (tmp_path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said) as refused:
        Run.load(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_run_is_opened_for_one_preset(tmp_path):
    Run.open(tmp_path / "a", FACTS)
    assert Run.open(tmp_path / "a", {**FACTS, "seed": 4}).seed == 4
    with pytest.raises(UserError, match="holds a run of preset 'demo', not 'paper': choose another --out"):
        Run.open(tmp_path / "a", {**FACTS, "preset": "paper"})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out' cannot be written \(.*\): choose another --out"):
        Run.open(tmp_path / "file" / "out", FACTS)


def test_a_cell_is_found_by_its_folder(tmp_path, monkeypatch):
    assert Cell.at(tmp_path / "layer-12" / "e16") == Run(tmp_path).cell(12, 16)
    assert Cell.at(tmp_path / "layer-0" / "poly") == Run(tmp_path).cell(0, None)
    own = Cell.at(tmp_path / "layer-3" / "fixed")  # of a dictionary of one's own
    assert (own.layer, own.folder, own.source, own.is_baseline) == (
        3,
        tmp_path / "layer-3" / "fixed",
        tmp_path / "layer-3" / "fixed" / "sae",
        False,
    )
    monkeypatch.chdir(tmp_path)
    assert Cell.at(Path("layer-3/e8")).run.folder.resolve() == tmp_path.resolve()
    for wrong in ("layer-3/e8/sae", "layer-3", "e8", "layer-x/e8", "layer-3/a b"):
        with pytest.raises(UserError, match=r"does not tell its layer: give OUT/layer-<l>/e<e>, or OUT/"):
            Cell.at(tmp_path / wrong)


def test_the_evaluation_set_is_the_facts_or_what_is_there(tmp_path):
    run = Run(tmp_path)
    assert run.cell(3, 8).evaluation is None
    run.activations("eval").mkdir()
    (run.activations("eval") / "manifest.json").touch()
    assert run.cell(3, 8).evaluation == run.activations("eval")
    assert run.cell(3, 8).unseen == "eval"
    write_facts(tmp_path, evaluation="elsewhere")
    assert Run(tmp_path).cell(3, 8).evaluation == tmp_path / "elsewhere"  # seen from the run's folder


def test_what_is_saved_is_read_again_and_what_is_missing_is_named(tmp_path):
    cell = Run(tmp_path).cell(3, 8)
    with pytest.raises(UserError, match=r"e8' holds no scores.safetensors: run `lightning test` or `ard table`"):
        cell.tensors("scores")
    with pytest.raises(UserError, match=r"holds no names.parquet"):
        cell.rows("names")
    cell.save_tensors("scores", {"a": torch.arange(6).view(2, 3).T})
    assert torch.equal(cell.tensors("scores")["a"], torch.arange(6).view(2, 3).T)
    cell.save_rows("names", [{"name": "dog"}, {"name": None}])
    assert cell.rows("names") == [{"name": "dog"}, {"name": None}]
    assert cell.run.cells_with("names") == ["layer-3/e8"]


def test_results_come_layer_by_layer_poly_first_without_what_is_missing(tmp_path):
    run = Run(tmp_path)
    figure = Figure(1.0, 0.5, 1.5, 9, "share")
    for cell in (run.cell(3, 8), run.cell(1, 4), run.cell(3, None)):
        Result("any", (cell.row({"f1": figure}),), {}).save(cell.result_path("any"))
    rows = [result.rows[0] for result in run.results("any", (3, 1), (8, 4))]
    assert [(row.layer, row.expansion) for row in rows] == [(1, 4), (3, None), (3, 8)]
    assert run.cell(3, 8).row({}, control="names shuffled").method == "AR&D, names shuffled"


def literals(tree):
    """The strings of a module that are not docstrings, nor messages of errors; what is put into them is {}."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield from literals(part)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        else:
            yield from literals(node)


def spelled(source):
    """What a module spells of a run's folder; with words between it, or with <placeholders>, it is for readers."""
    words = (text for text in literals(ast.parse(source)) if not re.search(r"[\s<]", text))
    return {text for text in words if set(text.split("/")) & OWN or re.fullmatch(r"(.*/)?table(\{\}|\d)\..*", text)}


def test_no_other_module_spells_a_file_of_a_run():
    folder = Path(ard.__file__).parent
    modules = {str(path.relative_to(folder)): path for path in folder.rglob("*.py")}
    assert ELSEWHERE | {"run.py"} < modules.keys()
    found = {
        name: spelled(path.read_text(encoding="utf-8"))
        for name, path in modules.items()
        if name not in ELSEWHERE | {"run.py"}
    }
    assert {name: words for name, words in found.items() if words} == {}
    assert set(FILES.values()) | {"run.json", "table{}.{}", "stamps"} <= spelled(
        modules["run.py"].read_text(encoding="utf-8")
    )


def test_a_spelled_name_is_seen_and_a_docstring_and_a_message_are_not():
    source = '''
def read(run, n):
    """Read names.parquet."""
    if n:
        raise ValueError("names.parquet")
    return run / "names.parquet", run / "layer-3/e8/matching.json", run / f"table{n}.md", run / f"{n}/run.json"
'''
    assert spelled(source) == {"names.parquet", "layer-3/e8/matching.json", "table{}.md", "{}/run.json"}


def test_a_file_that_the_system_does_not_let_be_read_is_not_called_damaged(tmp_path):
    with (
        pytest.raises(UserError, match=r"x' cannot be read \(Permission denied\): make it readable"),
        readable(tmp_path / "x"),
    ):
        raise PermissionError(13, "Permission denied")
    with pytest.raises(UserError, match=r"x' is damaged \(no footer\): delete it"), readable(tmp_path / "x"):
        raise OSError("no footer")
