"""Exports are what the other projects' own classes take; where these cannot be had, rows have their fields."""

import gzip
import json

import numpy as np
import pytest

from ard.cli import main
from ard.reports import write_export
from ard.reports.concepts import read_timelines
from ard.reports.exports import CONCEPTS_PER_FILE
from ard.types import UserError
from experiments.bench.made_run import write_run

NUM_CONCEPTS = CONCEPTS_PER_FILE + 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("made"), NUM_CONCEPTS, 6, 0.5, num_sounds=4)


def lines(path):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_saedashboards_own_classes_take_the_export(made):
    dashboard = pytest.importorskip("sae_dashboard.neuronpedia.neuronpedia_dashboard")
    folder, timelines, seen = write_export(made.folder, "saedashboard"), read_timelines(made.own), []
    rows = {row["feature"]: row for row in made.own.rows("concepts")}
    for number in range(2):
        content = json.loads((folder / f"batch-{number}.json").read_text(encoding="utf-8"))
        batch = dashboard.NeuronpediaDashboardBatch(**content)
        assert json.loads(json.dumps(batch.to_dict())) == content  # nothing is lost
        assert (batch.model_id, batch.layer, batch.sae_set) == ("none", 3, "ard-e8")
        for feature in batch.features:
            seen.append(feature.feature_index)
            assert len(feature.activations) == len(rows[feature.feature_index]["top_ids"])
            for activation, values in zip(feature.activations, timelines[feature.feature_index], strict=True):
                np.testing.assert_allclose(activation.values, values, atol=1e-4)
                assert len(activation.tokens) == len(values)
                assert activation.values[activation.qualifying_token_index] == max(activation.values)
            assert feature.activations[0].tokens[:2] == ["0.00s ", "0.04s "]
    assert sorted(seen) == sorted(timelines)


FIELDS = {  # of the dataclasses in neuronpedia_utils/db_models (ebb8426f), those without a default first
    "features": (
        "modelId layer index",
        "creatorId createdAt maxActApprox frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values",
    ),
    "activations": (
        "id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId",
        "dataSource createdAt binMin binMax binContains qualifyingTokenIndex",
    ),
    "explanations": ("id modelId layer index description authorId", "notes createdAt"),
    "model": ("id instruct creatorId", "displayNameShort displayName createdAt updatedAt"),
    "source": ("id modelId setName creatorId", "dataset createdAt"),
    "release": ("name description creatorName creatorId", "createdAt"),
    "sourceset": ("modelId name creatorId", "description releaseName createdAt"),
}


def test_neuronpedias_tables_get_the_fields_that_they_have(made):
    folder = write_export(made.folder, "neuronpedia")
    for table, (required, others) in FIELDS.items():
        files = (
            [folder / f"{table}.jsonl"] if (folder / f"{table}.jsonl").is_file() else sorted((folder / table).iterdir())
        )
        assert len(files) == (2 if (folder / table).is_dir() else 1)
        rows = [row for path in files for row in lines(path)]
        assert rows
        for row in rows:
            assert set(required.split()) <= row.keys() <= set(required.split()) | set(others.split())
    names = {row["feature"]: row["name"] for row in made.own.rows("concepts") if row["selected"]}
    explained = [row for number in range(2) for row in lines(folder / f"explanations/batch-{number}.jsonl.gz")]
    assert {int(row["index"]): row["description"] for row in explained} == {
        f: name for f, name in names.items() if name
    }
    failing = {row["feature"] for row in made.own.rows("axes") if not row["passes"]}
    assert {int(row["index"]) for row in explained if row["notes"]} == failing
    assert len({row["id"] for row in explained}) == len(explained)


def test_neuronpedias_own_client_takes_the_rows(made):
    pytest.importorskip("dotenv")
    activation = pytest.importorskip("neuronpedia.np_activation").Activation
    explanation = pytest.importorskip("neuronpedia.np_explanation").Explanation
    folder = write_export(made.folder, "neuronpedia")
    for row in lines(folder / "activations/batch-0.jsonl.gz"):
        read = activation.from_np_db_json(row | {"source": row["layer"]})  # its API calls the column so
        assert (read.index, read.values, read.source) == (int(row["index"]), row["values"], "3-ard-e8")
    for row in lines(folder / "explanations/batch-0.jsonl.gz"):
        assert explanation.from_np_db_json(row | {"source": row["layer"]}).text == row["description"]


def test_the_command_exports_and_leaves_nothing_of_a_larger_one(made, capsys):
    folder = made.folder / "export/saedashboard"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "batch-7.json").write_text("{}", encoding="utf-8")
    (folder / "batch-notes.json").touch()  # which no export wrote
    main(["report", "--run", str(made.folder), "--export", "saedashboard"])
    assert f"export: {folder}" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["batch-0.json", "batch-1.json", "batch-notes.json"]
    assert not made.report.is_file()


def test_without_activations_along_time_there_is_nothing_to_export(made, tmp_path):
    path = made.own.path("timelines")
    path.rename(tmp_path / "away")
    try:
        with pytest.raises(UserError, match=r"timelines.safetensors' is missing, which an export is made of: run"):
            write_export(made.folder, "neuronpedia")
    finally:
        (tmp_path / "away").rename(path)
