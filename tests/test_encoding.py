"""Text is UTF-8 in every file, and a terminal that cannot show it shows what it can."""

import ast
import io
import sys
from pathlib import Path

import pytest
import yaml

from ard.cli import main
from ard.presets import resolved_arguments
from experiments.torture.names import CASES

METHODS = {"read_text", "write_text", "open"}
LIBRARIES = {
    "tarfile",
    "fsspec",
    "wds",
    "Image",
    "self",
    "zipfile",
    "os",
    "Run",
    "av",
    "_av",
}  # whose `open` is another


def without_encoding(source):
    """Return the lines that read or write text in whatever encoding the locale has; ruff misses attributes."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func).startswith(("fsspec.open(", "wds.gopen(")):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value).rpartition(".")[2] if isinstance(node.func, ast.Attribute) else ""
        texts = [
            argument.value
            for argument in [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        is_binary = name == "open" and any("b" in text and len(text) < 4 for text in texts)
        is_text = name in METHODS and owner not in LIBRARIES and not is_binary
        is_text = is_text and not (name == "write_text" and isinstance(node.func, ast.Name))  # of ard.results
        if is_text and not any(keyword.arg == "encoding" for keyword in node.keywords):
            yield node.lineno


def test_what_names_no_encoding_is_seen():
    bad = "a.b.read_text()\nopen('x')\np.open('w')\np.write_text(t)\np.open('rb')\np.read_text(encoding='utf-8')\n"
    assert sorted(without_encoding(bad)) == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["ard", "experiments", "tests"])
def test_every_text_file_names_its_encoding(folder):
    paths = Path(folder).rglob("*.py")
    assert [f"{path}:{line}" for path in paths for line in without_encoding(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_of_another_encoding_shows_what_it_can(tmp_path, monkeypatch, encoding):
    (case,) = [case for case in CASES if case.input.startswith("`ard concepts` on")]
    shown, said = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", said)
    case.run(tmp_path)
    with pytest.raises(SystemExit):
        main(["concepts", "--run", "狗叫"])
    for stream in (shown, said):
        stream.flush()
    assert "Vögel" in shown.buffer.getvalue().decode(encoding) or encoding == "ascii"
    assert b"0.50" in shown.buffer.getvalue()
    assert rb"ard: '\u72d7\u53eb' holds no run.json" in said.buffer.getvalue()


def test_a_configuration_is_handed_on_in_ascii_and_says_the_same(tmp_path):
    (tmp_path / "run.yaml").write_text("bird: Vögel\nrate: 1.0e-05\n", encoding="utf-8")
    (tmp_path / "test.yaml").write_text("a: ${run.bird}\nb: ${run.rate}\nc: '1e-5'\nd: null\n", encoding="utf-8")
    with resolved_arguments(["test", "--config", str(tmp_path / "test.yaml")]) as passed:
        content = Path(passed[2]).read_text(encoding="ascii")
    assert yaml.safe_load(content) == {"a": "Vögel", "b": 1e-5, "c": "1e-5", "d": None}
