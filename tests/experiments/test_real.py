import json

from experiments import real

RUN = {
    "seed": 3,
    "embedding": "computed",
    "headline": ["5 of 9 live features are above chance (false-discovery rate 5%)."],
    "above_chance": [5, 9],
    "f1": [0.4, 0.3, 0.5],
    "minus": dict.fromkeys(real.COMPARED, (0.1, -0.05, 0.2)),
    "gains": {"matching/f1": [[0.4, 0.3, 0.5], [0.3, 0.2, 0.4], [0.1, -0.05, 0.2]]},
}


def test_the_page_is_filled_from_what_is_kept(tmp_path, monkeypatch):
    kept, page = tmp_path / "real.json", tmp_path / "real.md"
    kept.write_text(json.dumps({"runs": [RUN]}), encoding="utf-8")
    page.write_text("before\n\n<!-- real -->\nold\n<!-- end -->\n\nafter\n", encoding="utf-8")
    monkeypatch.setattr(real, "KEPT", kept)
    monkeypatch.setattr(real, "PAGE", page)
    real.main([])
    text = page.read_text(encoding="utf-8")
    assert "| 3 | computed | 0.40 [0.30, 0.50] | +0.10 [-0.05, +0.20] |" in text
    assert "| F1 (Table 1) | 0.40, untrained 0.30: +0.10 [-0.05, +0.20] |" in text
    assert "5 of 9 live features" in text
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")


def test_the_page_has_the_figures_of_its_file():
    kept = json.loads(real.KEPT.read_text(encoding="utf-8"))
    page = real.PAGE.read_text(encoding="utf-8")
    assert real.fill(page, {"real": real.table(kept["runs"])}) == page, "run `python -m experiments.real`"
