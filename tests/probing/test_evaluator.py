"""Evaluators in one pass of a Trainer, and each alone."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from lightning import Trainer
from safetensors.torch import load_file

from ard.activations import ActivationDataModule
from ard.evaluation import CompareNames, DetectConcepts, FindLabels, MatchLabels, ProbeLabels, StateLabels
from ard.monosemanticity import ScoreMonosemanticity, read_selections
from ard.probing import STAMPS, Encoding, Evaluator, InputNorms, KeepScores, numbered
from ard.representatives import RetrieveRepresentatives
from ard.results import Result
from ard.stamps import Stamp, read_stamp
from ard.types import UserError
from tests.probing.conftest import D_IN, SOUNDS


class NameByFeature(Evaluator):
    """Name every selected feature by its coordinate."""

    needs = ("selections",)
    makes = ("names",)

    def __init__(self):
        super().__init__()

    def evaluate(self, cell):
        features = read_selections(cell)["ard"][0].features.tolist()
        cell.save_rows("names", [{"scorer": "ard", "draw": 0, "name": SOUNDS[feature % D_IN]} for feature in features])


def all_evaluators():
    return [
        RetrieveRepresentatives(p=3),
        ScoreMonosemanticity(num_selected=8, num_null_draws=100),
        KeepScores(),
        NameByFeature(),
        MatchLabels(active_by="share", result="matching_paper"),
        MatchLabels(),
        CompareNames(),
        StateLabels(),
        DetectConcepts(),
        FindLabels(),
        ProbeLabels(least_clips=2),
        InputNorms(num_positions=3),
    ]


def run_test(run, evaluators, layer=0, clips_per_batch=4, cells=None):
    """Run evaluators as `lightning test` does."""
    data = ActivationDataModule(
        run.activations("probe"), layer=layer, evaluation=run.activations("eval"), clips_per_batch=clips_per_batch
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=evaluators, enable_checkpointing=False, **quiet)
    trainer.test(Encoding([cell.folder for cell in cells or [run.cell(0, None)]], D_IN), datamodule=data, verbose=False)


def contents(cell):
    """All that lies in a cell, but for the time that it took."""
    found = {}
    for path in cell.folder.iterdir():
        if path.suffix == ".json":
            found[path.name] = json.loads(path.read_text(encoding="utf-8")) | {"wall_time_s": None}
        elif path.suffix == ".parquet":
            found[path.name] = str(pq.read_table(path).to_pylist())
        elif path.suffix == ".safetensors":
            found[path.name] = {name: tensor.tolist() for name, tensor in load_file(path).items()}
    return found


@pytest.mark.slow
def test_an_evaluator_alone_writes_what_it_writes_under_a_trainer(tiny_run):
    cell = tiny_run.cell
    run_test(tiny_run.run, all_evaluators())
    together = contents(cell)
    results = {f"{name}.json" for evaluator in all_evaluators() for name in evaluator.results}
    assert results < together.keys()
    for path in list(cell.folder.iterdir()):
        path.unlink()
    for evaluator in all_evaluators():
        result = evaluator(cell)
        assert result is None or Result.load(cell.result_path(result.evaluation)).rows == result.rows
    alone = contents(cell)
    assert alone.keys() == together.keys()
    for name, content in together.items():
        assert repr(alone[name]) == repr(content), name


@pytest.mark.slow
def test_several_cells_share_a_pass_and_each_gets_what_it_gets_alone(tiny_run):
    run = tiny_run.run
    cells = [run.cell(0, label) for label in (None, "half-waves")]
    for cell in cells:
        run_test(run, all_evaluators(), cells=[cell])
    alone = [contents(cell) for cell in cells]
    for cell, files in zip(cells, alone, strict=True):
        for name in files:
            cell.folder.joinpath(name).unlink()
    run_test(run, all_evaluators(), cells=cells)
    for cell, files in zip(cells, alone, strict=True):
        together = contents(cell)
        assert together.keys() == files.keys()
        for name, content in files.items():
            assert repr(together[name]) == repr(content), (cell.label, name)


def test_true_names_of_coordinates_match_their_labels(tiny_run):
    run_test(tiny_run.run, all_evaluators())
    matching = tiny_run.cell.result("matching")
    assert matching.rows[0].figures["recall"].value == 1
    assert matching.wall_time_s > 0
    assert {name for name, _ in tiny_run.cell.result("name_similarity").rows[0].figures.items()} == {"clap_cosine"}


@pytest.mark.parametrize("order", [[1, 0], [0, 2, 4, 1, 3], [0, 1, 3, 4, 2]])
def test_an_order_that_cannot_work_is_refused_before_the_pass_in_one_line(tiny_run, order, monkeypatch):
    def streamed(*_):
        raise AssertionError("the pass began")

    monkeypatch.setattr(Evaluator, "update", streamed)
    monkeypatch.setattr(RetrieveRepresentatives, "start", streamed)
    evaluators = [all_evaluators()[place] for place in order]
    with pytest.raises(UserError, match=r"^(\w+) needs (\S+), which (\w+) makes: list \3 before it$"):
        run_test(tiny_run.run, evaluators)
    assert not tiny_run.cell.folder.exists()


def test_what_nobody_makes_has_to_be_there(tiny_run):
    said = r"MatchLabels needs representatives.safetensors, which is not in '.*poly': list the evaluator that makes it"
    with pytest.raises(UserError, match=said):
        run_test(tiny_run.run, [MatchLabels()])
    with pytest.raises(UserError, match=said):
        MatchLabels()(tiny_run.cell)
    run_test(tiny_run.run, all_evaluators()[:4])
    run_test(tiny_run.run, [MatchLabels()])  # what is there serves
    assert tiny_run.cell.result("matching") is not None


def test_what_an_evaluator_misses_is_said_before_another_has_done_anything(tiny_run, monkeypatch):
    def missed(*_):
        raise UserError("the endpoint cannot be reached")

    monkeypatch.setattr(FindLabels, "check", missed)
    with pytest.raises(UserError, match="the endpoint cannot be reached"):
        run_test(tiny_run.run, all_evaluators())
    assert not tiny_run.cell.folder.exists()


def test_data_of_another_layer_are_refused(tiny_run):
    with pytest.raises(UserError, match=r"the data are of layer 1 and the cell '.*layer-0/poly' is of layer 0: give"):
        run_test(tiny_run.run, [InputNorms()], layer=1)


def test_every_evaluator_leaves_its_stamp_when_it_is_done_and_until_then_the_one_from_before(tiny_run, monkeypatch):
    cell = tiny_run.cell

    def stamps(time):
        classes = [type(evaluator).__name__ for evaluator in all_evaluators()]
        names = [numbered(name, classes[: place + 1].count(name)) for place, name in enumerate(classes)]
        return [(cell.stamp(name), Stamp({"place": place, "time": time}, {})) for place, name in enumerate(names)]

    def fails(*_):
        raise RuntimeError("no")

    first, second = stamps("first"), stamps("second")
    token = STAMPS.set([first])
    try:
        run_test(tiny_run.run, all_evaluators())
        read = [read_stamp(path) for path, _ in first]
        assert [stamp._replace(results=()) for stamp in read] == [stamp for _, stamp in first]
        left = [name for stamp in read for name in stamp.results]
        assert sorted(left) == sorted(path.stem for path in cell.result_files)
        assert {"matching", "matching_paper"} < set(left)
        STAMPS.set([second])
        monkeypatch.setattr(MatchLabels, "evaluate", fails)
        with pytest.raises(RuntimeError, match="no"):
            run_test(tiny_run.run, all_evaluators())
    finally:
        STAMPS.reset(token)
    kept = [read_stamp(path).settings["time"] for path, _ in first]
    failed = [type(evaluator) for evaluator in all_evaluators()].index(MatchLabels)
    assert kept == ["second"] * failed + ["first"] * (len(first) - failed)


def test_a_test_by_hand_takes_back_the_stamps_of_what_it_does_again(tiny_run):
    cell, path = tiny_run.cell, tiny_run.cell.stamp("InputNorms")
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")
    run_test(tiny_run.run, [InputNorms()])
    assert not path.exists()
    assert isinstance(cell.result("input_norms"), Result)


def test_each_batch_is_scored_once_for_all_evaluators(tiny_run, monkeypatch):
    from ard.probing import module
    from ard.representatives import metric

    scored, score = [], module.clip_scores

    def counting(codes, clip_of_token, num_clips, num_features):
        scored.append(num_clips)
        return score(codes, clip_of_token, num_clips, num_features)

    for place in (module, metric):
        monkeypatch.setattr(place, "clip_scores", counting)
    run_test(tiny_run.run, all_evaluators())
    assert scored == [4, 1, 4, 1, 2, 4, 1, 4]  # of shards of 5, 5 and 2 clips, and of 5 and 4


def test_a_run_without_an_evaluation_set_keeps_the_scores_of_all_clips(tiny_run):
    alone = replace(tiny_run.cell, evaluation=None)
    KeepScores()(alone)
    assert {name.partition("/")[0] for name in alone.tensors("scores")} == {"num_features", "probe"}
    assert alone.tensors("scores")["probe/rows"].unique().tolist() == list(range(12))
    assert torch.equal(alone.tensors("scores")["probe/num_clips"], torch.tensor(12))
