"""The pipeline is written down once: what is planned is what is run."""

from collections import Counter
from types import SimpleNamespace

import pytest

from ard.chain import Chain
from ard.chain import chain as chain_module
from ard.classes import import_class
from ard.plan import plan
from ard.presets import preset_files
from ard.steps import GOALS, STEPS, work

FILES = ("extract", "fit", "test", "steer")


@pytest.fixture
def runs(monkeypatch):
    """What a chain runs, in place of running it: the file, the cell or split, and the evaluators of each."""
    recorded = []

    def record(command, name, config, *options):
        init = config["data"]["init_args"]
        callbacks = [import_class(c["class_path"]) for c in config["trainer"]["callbacks"]]
        streams = [c for c in callbacks if getattr(c, "streams", bool)()]
        expansion = config["model"]["init_args"].get("expansion")
        recorded.append(
            SimpleNamespace(
                file=name,
                layer=init.get("layer"),
                expansions=expansion if isinstance(expansion, list) else [expansion],
                cells=[str(cell) for cell in config["model"]["init_args"].get("cell", [])],
                evaluators=[c.__name__ for c in callbacks],
                passes=bool(streams) and command == "test",
                splits=1 + (init.get("evaluation") is not None),
            )
        )

    monkeypatch.setattr(chain_module, "run_config", record)
    monkeypatch.setattr(chain_module, "draw_control", lambda *_: None)
    monkeypatch.setattr(chain_module, "write_clips_table", lambda *_: None)
    monkeypatch.setattr(Chain, "_sources", lambda *_: {})
    return recorded


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["demo", "paper"])
@pytest.mark.parametrize("goals", [(1,), (2,), (3,), (4,), (1, 2, 3, 4)], ids=str)
def test_the_plan_counts_what_the_tables_run(preset, goals, runs, tmp_path):
    chain = Chain(preset, {"out": str(tmp_path / "run")})
    chain.fill(goals)
    facts = preset_files(preset, {"out": str(tmp_path / "nowhere")}, FILES)
    planned = plan(facts, goals, gpu="H100", disk=tmp_path)
    parts = {stage.stage: [s.part for s in planned.stages if s.stage == stage.stage] for stage in planned.stages}

    assert len(parts["extraction"]) == sum(one.file == "extract.yaml" for one in runs) == (2 if goals == (4,) else 3)
    trained = [f"layer {one.layer}, e {', '.join(map(str, one.expansions))}" for one in runs if one.file == "fit.yaml"]
    assert sorted(trained) == sorted(parts["SAE training"])
    passes = [one for one in runs if one.passes]
    num_cells = sum(len(one.cells) for one in passes)
    assert parts["probing"] == [f"{num_cells} cells in {len(passes)} pass{'es' if len(passes) > 1 else ''}"]
    tokens = {s.part: s.num_tokens for s in planned.stages if s.stage == "extraction"}
    (probing,) = (stage for stage in planned.stages if stage.stage == "probing")
    assert probing.num_tokens == sum(tokens["probe"] + (one.splits == 2) * tokens["eval"] for one in passes)
    assert ("captions" in parts) == any("NameConcepts" in one.evaluators for one in runs)
    assert ("steering" in parts) == any(one.file == "steer.yaml" for one in runs)


@pytest.mark.slow
def test_no_cell_is_retrieved_twice(runs, tmp_path):
    Chain("demo", {"out": str(tmp_path / "run")}).fill((1, 2, 3, 4))
    passes = [one for one in runs if "RetrieveRepresentatives" in one.evaluators]
    assert len(passes) == 2 * 3  # a test and a score of each layer
    retrieved = Counter(cell for one in passes for cell in one.cells)
    assert len(retrieved) == 12 + 3 * 5  # and at each of three layers four controls, and the half-waves
    assert set(retrieved.values()) == {1}
    tested = [one for one in runs if "NameConcepts" in one.evaluators]
    named = {cell.rpartition("layer-")[2] for one in tested for cell in one.cells}
    controls = {f"3/e8-{control}" for control in ("untrained-0", "untrained-1", "untrained-2", "tokens-0")}
    assert named == {"3/e8", "3/poly", "3/half-waves", "1/e8", "4/e8"} | controls


def test_steps_need_only_earlier_steps():
    names = [step.name for step in STEPS]
    for place, step in enumerate(STEPS):
        assert set(step.needs) <= set(names[:place])
        assert set(step.cells) <= set(GOALS)


@pytest.mark.slow
def test_without_labels_there_are_the_cells_of_table_4_and_the_concepts():
    facts = {"layer": 2, "layers": [2], "expansion": 8, "expansions": [8], "evaluation": None, "audio": {}}
    facts |= {"num_untrained": 2}
    listed = [str(one) for one in work(facts, (1, 2, 3))]
    assert listed == ["audio: probe", "extract: probe"]
    assert [str(one) for one in work(facts, (4, "concepts"))] == [
        "audio: probe",
        "extract: probe",
        "fit: layer 2, expansion 8",
        "control: layer 2, e8-tokens-0",
        "control: layer 2, e8-untrained-0",
        "control: layer 2, e8-untrained-1",
        "test: layer 2, expansion 8",
        "score: layer 2, Poly. Feats.",
        "score: layer 2, e8-tokens-0",
        "score: layer 2, e8-untrained-0",
        "score: layer 2, e8-untrained-1",
        "score: layer 2, half-waves",
    ]
