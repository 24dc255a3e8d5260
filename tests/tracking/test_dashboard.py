"""The dashboard names what is logged, is valid by its library's own models, and takes an account only to be saved."""

import json
import re
import sys

import pytest
import torch
import wandb
from lightning import Trainer
from lightning.pytorch.loggers import WandbLogger
from wandb_workspaces.workspaces import Workspace
from wandb_workspaces.workspaces.internal import View

from ard.activations import ActivationDataModule
from ard.cli import main
from ard.sae import LogQuality, SAETraining
from ard.tracking import LogTraining
from ard.tracking.dashboard import TRAINING
from ard.tracking.show import lines
from tests.stores import write_activations
from tests.tracking.panels import panels_of, plot_of
from tests.tracking.server import ENTITY, serve

SECTIONS = ["Training", "Table 4: layers by expansions", "Concepts", "Names against labels", "Steering"]


@pytest.fixture
def file(tmp_path):
    """The dashboard as a file, written where nobody can log in."""
    out = tmp_path / "new" / "dashboard.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "Api", lambda *_: pytest.fail("a file needs no account"))
        main(["dashboard", "--project", "mine", "--out", str(out)])
    return out


@pytest.fixture
def view(file):
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_file_is_valid_by_the_librarys_own_models(file, view):
    read = View.model_validate_json(file.read_bytes())
    assert read.model_dump(mode="json", by_alias=True, exclude_none=True) == view
    assert (read.entity, read.project, read.display_name) == ("", "mine", "AR&D")
    workspace = Workspace._from_model(read)
    assert [section.name for section in workspace.sections] == SECTIONS
    shown = [type(panel).__name__ for section in workspace.sections for panel in section.panels]
    assert len(shown) == len(panels_of(view))
    assert set(shown) == {
        "BarPlot",
        "CustomChart",
        "LinePlot",
        "ParallelCoordinatesPlot",
        "ScatterPlot",
        "WeavePanelSummaryTable",
    }


def test_all_panels_of_a_section_are_on_one_page(view):
    for section in view["spec"]["section"]["panelBankConfig"]["sections"]:
        flow = section["flowConfig"]
        assert len(section["panels"]) <= flow["columnsPerPage"] * flow["rowsPerPage"]


def keys_of_a_training(folder, expansion):
    """Return what a tiny training logs to W&B."""
    x = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    write_activations(folder, [({"id": str(place)}, clip) for place, clip in enumerate(x)], layer=1)
    run, keys = wandb.init(mode="disabled"), set()
    run.log = lambda row, **_: keys.update(row)
    trainer = Trainer(
        accelerator="cpu",
        logger=WandbLogger(experiment=run),
        callbacks=[LogQuality(), LogTraining()],
        max_steps=2,
        val_check_interval=2,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    data = ActivationDataModule(folder, layer=1, evaluation=folder, batch_tokens=8)
    trainer.fit(SAETraining(8, expansion, k=2), datamodule=data)
    run.finish()
    return keys


@pytest.fixture(scope="module", params=[2, [2, 4]], ids=["one SAE", "several"])
def training_keys(request, tmp_path_factory):
    return keys_of_a_training(tmp_path_factory.mktemp("activations"), request.param)


def test_line_plots_show_what_a_training_logs(training_keys, view):
    plots = {config["chartTitle"]: config for kind, config in panels_of(view) if kind == "Run History Line Plot"}
    for title, figures in TRAINING.items():
        plot = plots.pop(title)
        assert plot["useMetricRegex"]
        assert plot["xAxis"] in training_keys
        shown = [key for key in training_keys if re.search(plot["metricRegex"], key)]
        assert {re.sub("^(train|val)/(e[24]/)?", "", key) for key in shown} == set(figures.split("|"))
    assert not plots


def test_plots_are_read_as_they_are_logged(view):
    shown = [config for kind, config in panels_of(view) if kind == "Vega2"]
    assert len(shown) > 3
    for config in shown:
        key = plot_of(config)
        logged = lines({"m": ([0.0, 1.0], [1.0, 2.0])}, title=config["stringSettings"]["title"], x="x")
        logged.set_key(key)
        wanted = logged.spec.config_value["panel_config"]
        assert (config["panelDefId"], config["fieldSettings"]) == (wanted["panelDefId"], wanted["fieldSettings"])
        assert config["stringSettings"].keys() == wanted["stringSettings"].keys()
        assert plot_of(config) == plot_of(wanted) == key


def refused(capsys, *args):
    """Run a command that must fail with exit code 2, and return its one line."""
    with pytest.raises(SystemExit) as stopped:
        main(["dashboard", *map(str, args)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_missing_extra_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    line = refused(capsys, "--out", tmp_path / "dashboard.json")
    assert line.endswith("needs wandb-workspaces: pip install 'ard-audio[wandb-dashboard]'")


def test_a_file_that_cannot_be_written_is_named(capsys, tmp_path):
    assert f"{str(tmp_path)!r} cannot be written" in refused(capsys, "--out", tmp_path)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server on this machine, and a user who is logged in to it and nowhere else."""
    with serve() as served:
        monkeypatch.setenv("WANDB_BASE_URL", served.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        yield served


def test_what_is_saved_is_what_the_file_has(server, view, capsys):
    main(["dashboard", "--project", "mine", "--entity", ENTITY])
    (saved,) = server.views
    place = capsys.readouterr().out.split()[-1]
    assert place.startswith(f"{server.url}/{ENTITY}/mine?nw=")
    assert (saved["entityName"], saved["projectName"], saved["displayName"]) == (ENTITY, "mine", "AR&D")
    assert without_ids(json.loads(saved["spec"])) == without_ids(view["spec"])


def without_ids(content):
    """Return JSON without the random ids of panels."""
    if isinstance(content, dict):
        return {key: without_ids(value) for key, value in content.items() if key != "__id__"}
    return [without_ids(item) for item in content] if isinstance(content, list) else content


def test_saving_takes_an_entity(capsys):
    assert "needs --entity" in refused(capsys)


def test_a_refusal_of_the_server_is_one_line(server, capsys):
    line = refused(capsys, "--entity", "others")
    assert "dashboard of others/ard cannot be saved (" in line
    assert "no such entity" in line


def test_who_is_not_logged_in_is_told_how(server, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    line = refused(capsys, "--entity", ENTITY)
    assert "No API key configured" in line
    assert "log in with `wandb login`" in line
    assert server.views == []
