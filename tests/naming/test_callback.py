"""Names written into a run: by namers that need no captions, and without CLAP."""

import math

import pytest
from omegaconf import OmegaConf

from ard.activations import read_manifest
from ard.cli import main
from ard.naming import ConsensusNamer, LabelNamer, NameConcepts, VocabularyNamer
from ard.presets import CONFIGS
from ard.reports import find_concepts, render_concepts
from ard.run import Cell
from ard.types import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def cell(scored):
    out, _ = scored
    return Cell.at(out / "layer-2/e2")


def test_labels_name_concepts_without_captions_and_clap(cell, monkeypatch):
    best = max((row for row in cell.rows("concepts") if row["selected"]), key=lambda row: row["m"])
    labels = {
        clip_id: ["my_owl" if clip_id in best["top_ids"] else "rain"] for clip_id in read_manifest(cell.probe).clip_ids
    }
    clips = [{"id": clip_id, "labels": of_clip} for clip_id, of_clip in labels.items()]
    monkeypatch.setattr("ard.naming.callback.read_clips_metadata", lambda _: clips)
    monkeypatch.setattr("ard.naming.callback.caption_clips", None)  # nothing is captioned
    monkeypatch.setattr("ard.probing.evaluator.load_clap", None)
    result = NameConcepts(namer=LabelNamer(rate=0.2), clap=None)(cell)
    assert result.choices["namer"] == result.choices["made_from"] == "labels"
    assert result.choices["clap"] is None
    assert "captioner" not in result.choices
    assert result.details["num_clips_without_caption"] == 0
    assert math.isnan(result.rows[0].figures["clap_percentile"].value)
    selected = [row for row in cell.rows("concepts") if row["selected"]]
    named = [row for row in selected if row["name"]]
    assert len(named) < len(selected)
    assert best["feature"] in [row["feature"] for row in named]
    first = {}
    for row in sorted(selected, key=lambda row: -row["m"]):
        if row["name"] is None:
            assert row["no_name_because"].startswith("no label is over-represented: at best ")
            assert row["made_from"] is row["duplicate_of"] is None
            continue
        label = row["name"].replace(" ", "_")
        count = sum(label in labels[clip_id] for clip_id in row["top_ids"])
        of_all = sum(label in of_clip for of_clip in labels.values())
        assert row["support"][0].startswith(f"{row['name']} in {count} of 4 clips ({of_all} of 12 in all, q ")
        assert row["made_from"] == "labels"
        assert row["phrases"] == [row["name"]]
        assert row["captions"] == []
        assert math.isnan(row["clap"])
        assert row["duplicate_of"] == first.get(row["name"])  # the same words
        first.setdefault(row["name"], row["feature"])


def test_a_vocabulary_names_concepts_from_yaml_and_its_support_is_shown(scored, cell, tmp_path, capsys):
    _, facts = scored
    (tmp_path / "mine.txt").write_text("owl\nrain\nman speaking\n", encoding="utf-8")
    config = OmegaConf.load(CONFIGS / "demo/test.yaml")
    (naming,) = [c for c in config.trainer.callbacks if c.class_path == "ard.naming.NameConcepts"]
    settings = {"vocabulary": str(tmp_path / "mine.txt"), "rate": 0.9}
    naming.init_args.namer = {"class_path": "ard.naming.VocabularyNamer", "init_args": settings}
    config.trainer.callbacks = [naming]
    OmegaConf.save(config, tmp_path / "test.yaml")
    (tmp_path / "run.yaml").write_bytes((CONFIGS / "demo/run.yaml").read_bytes())
    main(["test", "--config", str(tmp_path / "test.yaml"), *facts])
    assert f"concepts have a name, from a vocabulary: {tmp_path / 'mine.txt'}" in capsys.readouterr().err
    (concept, *_) = concepts = find_concepts(cell)
    assert concept["name"] in ("owl", "rain", "man speaking")
    assert concept["support"][0].startswith(f"{concept['name']} in ")
    assert -1 <= concept["clap"] <= 1
    table = render_concepts(concepts)
    assert table.caption == f"names from a vocabulary: {tmp_path / 'mine.txt'}"
    assert next(iter(table.columns[-1].cells)) == "; ".join(concept["support"])


def test_a_namer_whose_needs_are_not_met_is_refused_before_any_work(cell, monkeypatch):
    for namer in (VocabularyNamer(), ConsensusNamer()):
        with pytest.raises(UserError, match=f"{type(namer).__name__} needs a CLAP model, and clap is null: give one"):
            NameConcepts(namer=namer, clap=None).check(cell)
    with pytest.raises(UserError, match="NameConcepts needs a CLAP model, and its clap is null: give it one"):
        NameConcepts(namer=LabelNamer(), clap=None).clap()
    with pytest.raises(UserError, match="vocabulary 'birds' cannot be read"):
        NameConcepts(namer=VocabularyNamer("birds")).check(cell)
    monkeypatch.setattr("ard.naming.callback.read_clips_metadata", lambda _: [{"id": "a", "labels": []}, {"id": "b"}])
    with pytest.raises(UserError, match=r"LabelNamer needs labels, and no clip of '.*activations' has one: give clips"):
        NameConcepts(namer=LabelNamer()).check(cell)
