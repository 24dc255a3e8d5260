"""The benchmarks of a GPU run through at toy size on the CPU, and write down what fails."""

import json

import pytest

from experiments.bench_gpu.__main__ import DOCS, SECTIONS, main
from experiments.bench_gpu.report import page, summary


def test_every_section_has_rows(tmp_path):
    main(["--toy", "--out", str(tmp_path)])
    kept = json.loads((tmp_path / "bench-gpu.json").read_text(encoding="utf-8"))
    assert list(kept["sections"]) == list(SECTIONS)
    for name, section in kept["sections"].items():
        assert "error" not in section, (name, section["error"])
        assert section["rows"], name
    assert {row["holds"] for row in kept["sections"]["checks"]["rows"]} == {"yes"}
    errors = {(row["arithmetic"], row["way"]): row for row in kept["sections"]["exactness"]["rows"]}
    assert all(row["error"] < 1e-5 for row in errors.values())
    assert errors["bfloat16", "dense"]["with rounding"] > 1e-4
    page = (tmp_path / "bench-gpu.md").read_text(encoding="utf-8")
    assert all(section["title"] in page for section in kept["sections"].values())


def test_a_section_that_fails_is_written_down_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setitem(SECTIONS, "card", ("products", "The card", 0.0))  # whose time is over after one row
    monkeypatch.setattr("experiments.bench_gpu.products.products.ways", lambda _: ("by hand",))
    main(["--toy", "--out", str(tmp_path), "card", "exactness", "extraction"])
    sections = json.loads((tmp_path / "bench-gpu.json").read_text(encoding="utf-8"))["sections"]
    assert len(sections["card"]["rows"]) == 1
    assert "its budget" in sections["card"]["error"]
    assert "by hand" in sections["exactness"]["error"]
    assert sections["extraction"]["rows"]


@pytest.mark.parametrize(
    ("args", "message"), [(["sped"], "section 'sped' does not exist"), ([], "there is no GPU here")]
)
def test_what_cannot_be_measured_is_refused(args, message, capsys):
    with pytest.raises(SystemExit):
        main(args)
    assert message in capsys.readouterr().err


def test_the_page_is_made_of_what_was_measured():
    kept = json.loads((DOCS / "bench-gpu.json").read_text(encoding="utf-8"))
    assert (DOCS / "bench-gpu.md").read_text(encoding="utf-8") == page(kept)


def test_what_is_summed_up_is_what_the_tables_say():
    loop = [
        {"training": "batches alone, mixed by the CPU", "ms a step": 20.0},
        {"training": "e 8", "arithmetic": "bfloat16", "ms a step": 12.0, "idle GPU": 0.03},
        {"training": "e 8", "arithmetic": "float32", "ms a step": 36.0, "idle GPU": 0.01},
        {"training": "e 8, robust", "arithmetic": "bfloat16", "ms a step": 25.0, "idle GPU": 0.02},
        {"training": "e [4, 8, 16]", "arithmetic": "bfloat16", "ms a step": 39.0, "idle GPU": 0.02},
    ]
    peers = [
        {"library": "one", "arithmetic": "float32", "ms a step": 90.0},
        {"library": "two", "arithmetic": "bfloat16", "ms a step": 24.0},
        {"library": "three", "arithmetic": "bfloat16", "not measured": "is not here"},
    ]
    steps = [{"arithmetic": "bfloat16", "products": "fastest", "share of peak": 0.66}]
    said = list(summary({name: {"rows": rows} for name, rows in (("loop", loop), ("peers", peers), ("steps", steps))}))
    assert said[0].endswith("takes 12 ms at e 8; the GPU is idle for 3% of it.")
    assert "makes 66% of the FLOP/s" in said[1]
    assert said[2].endswith("two in bfloat16, takes 24 ms: 2 times as long.")
    assert list(summary({})) == [""]
