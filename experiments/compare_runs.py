"""Say what differs between two runs: ``python -m experiments.compare_runs runs/before runs/after``.

Result files, tables, tensors and parquet tables are compared value by value, but for wall times, commits, versions,
stamps and the runs' own folders. The exit status is 1 if anything differs.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

VARYING = {"wall_time_s", "git_commit", "version"}
APART = ("stamps", "wandb", "checkpoints", "audio", "report")
KINDS = (".json", ".jsonl", ".md", ".tex", ".safetensors", ".parquet")


def differences(before: Path, after: Path) -> Iterator[str]:
    """Yield a line for each file that only one run has, or that differs."""
    files = [{path.relative_to(run) for path in _files(run)} for run in (before, after)]
    for path in sorted(files[0] | files[1]):
        if path not in files[0] or path not in files[1]:
            yield f"{path}: only {'after' if path in files[1] else 'before'}"
        elif what := _differs(before / path, after / path, (before, after)):
            yield f"{path}: {what}"


def _files(run: Path) -> Iterator[Path]:
    for path in run.rglob("*"):
        parts = path.relative_to(run).parts
        if path.is_file() and path.suffix in KINDS and not set(parts) & set(APART):
            yield path


def _differs(before: Path, after: Path, runs: tuple[Path, Path]) -> str | None:
    """Say what differs between two files; None where nothing does."""
    if before.suffix == ".safetensors":
        one, other = load_file(before), load_file(after)
        if one.keys() != other.keys():
            return f"tensors {sorted(one.keys() ^ other.keys())}"
        unlike = [name for name in one if not _same_bits(one[name], other[name])]
        return f"values of {unlike}" if unlike else None
    if before.suffix == ".json":
        contents = [json.loads(text) for text in _texts(before, after, runs)]
        return next(_unlike(*map(_lasting, contents)), None)
    if before.suffix == ".parquet":
        one, other = (pq.read_table(path).to_pylist() for path in (before, after))
        return next(_unlike(_by_key(one), _by_key(other)), None)
    texts = _texts(before, after, runs)
    if before.suffix == ".jsonl":  # lines come as answers do
        texts = ["\n".join(sorted(text.splitlines())) for text in texts]
    lines = [text.splitlines() for text in texts]
    unlike = sum(a != b for a, b in zip(*lines, strict=False)) + abs(len(lines[0]) - len(lines[1]))
    return f"{unlike} lines" if unlike else None


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors are the same, NaN included."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


def _by_key(rows: list[dict[str, Any]]) -> Any:
    """Order rows that have an id, since captions come in the order in which they were asked for."""
    return sorted(rows, key=lambda row: str(row["id"])) if rows and "caption" in rows[0] else rows


def _texts(before: Path, after: Path, runs: tuple[Path, Path]) -> list[str]:
    """Read two files without the names of the folders that their runs were made in."""
    texts = []
    for path, run in zip((before, after), runs, strict=True):
        out = json.loads((run / "run.json").read_text(encoding="utf-8"))["out"]
        text = path.read_text(encoding="utf-8")
        texts.append(text if out == "." else text.replace(out, "<run>"))  # runs of before 0.3 name their folder
    return texts


def _lasting(value: Any) -> Any:
    """Leave out what is another in every run."""
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in VARYING}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _unlike(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Yield where two values differ, and how."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _unlike(before.get(key, "nothing"), after.get(key, "nothing"), f"{where}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from _unlike(*pair, f"{where}[{index}]")
    elif before != after and not (before != before and after != after):  # NaN is like NaN
        yield f"{where}: {str(before)[:80]} before, {str(after)[:80]} after"


if __name__ == "__main__":
    found = list(differences(Path(sys.argv[1]), Path(sys.argv[2])))
    print("\n".join(found) if found else "the same")  # noqa: T201
    sys.exit(bool(found))
