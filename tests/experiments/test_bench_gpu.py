"""The benchmarks of a GPU run through at toy size on the CPU, and write down what fails."""

import json

import pytest

from experiments.bench_gpu.__main__ import SECTIONS, main


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
