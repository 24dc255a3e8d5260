"""An import costs what is asked for: faces are lazy, formulas know no framework, reading a run loads no model."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ard
from tests.reports.conftest import concept, write_about, write_clips, write_concepts, write_results

HEAVY = ("lightning", "torch", "transformers", "wandb")
FORMULAS = [
    "ard.evaluation.matching",
    *(f"ard.{path.parent.name}.functional" for path in Path("ard").glob("*/functional.py")),
]
METRICS = [f"ard.{path.parent.name}.metric" for path in Path("ard").glob("*/metric.py")]
FACES = ["ard", *(f"ard.{stub.parent.name}" for stub in sorted(Path("ard").glob("*/__init__.pyi")))]
MEASURED = """
import resource, sys
def run():
{code}
try:
    run()
except SystemExit as stopped:
    assert not stopped.code, stopped
loaded = [name for name in {names} if name in sys.modules]
print("\\nMEASURED", resource.getrusage(resource.RUSAGE_SELF).ru_utime, *loaded)
"""


def measure(code, names=HEAVY):
    """Run code in a process of its own; return its user time, and which packages it loaded."""
    script = MEASURED.format(code="\n".join(f"    {line}" for line in code.splitlines()), names=names)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    user_s, *loaded = done.stdout.rpartition("MEASURED ")[2].split()
    return float(user_s), loaded


@pytest.fixture(scope="module")
def torch_s():
    """The user time of `import torch`, the measure of this machine as busy as it is."""
    return measure("import torch")[0]


@pytest.mark.slow
def test_the_package_itself_and_all_its_faces_load_nothing(torch_s):
    user_s, loaded = measure("\n".join(f"import {face}" for face in FACES), (*HEAVY, "numpy", "scipy"))
    assert loaded == []
    assert user_s < torch_s / 2


def test_the_help_waits_for_nothing(torch_s):
    user_s, loaded = measure("from ard.cli import main\nmain(['--help'])")
    assert loaded == []
    assert user_s < torch_s / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [(FORMULAS, ("lightning", "torchmetrics", "transformers", "wandb")), (METRICS, ("lightning", "wandb"))],
    ids=["formulas", "metrics"],
)
def test_formulas_know_no_framework_and_metrics_no_trainer(modules, unwanted):
    assert len(modules) >= 4
    assert measure("\n".join(f"import {module}" for module in modules), unwanted)[1] == []


@pytest.mark.slow
def test_a_formula_costs_little_more_than_torch(torch_s):
    user_s, _ = measure("from ard.monosemanticity import monosemanticity")
    assert user_s < 3 * torch_s


@pytest.fixture
def run(tmp_path):
    write_about(tmp_path)
    write_results(tmp_path)
    write_clips(tmp_path, ["a", "b"])
    write_concepts(tmp_path, [concept(5, 1.5, ["a", "b"])])
    return tmp_path


@pytest.mark.slow
def test_reading_a_run_loads_no_model(run):
    code = "\n".join(f"main({[command, '--run', str(run)]})" for command in ("concepts", "tables"))
    assert measure(f"from ard.cli import main\n{code}", ("lightning", "transformers", "wandb"))[1] == []
    report = f"main({['report', '--run', str(run)]})"  # whose spectrograms have the mel filters of transformers
    assert measure(f"from ard.cli import main\n{report}", ("lightning", "wandb"))[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_planning_loads_no_model(preset, tmp_path):
    args = ["plan", "--preset", preset, "--out", str(tmp_path)]
    assert measure(f"from ard.cli import main\nmain({args})", ("lightning", "transformers", "wandb"))[1] == []


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_is_there_and_no_submodule_hides_it(face):
    package = import_module(face)
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(dir(package)) == set(package.__all__) == set(imported)
    for name in package.__all__:
        assert getattr(package, name) is not None
    submodules = {path.stem for path in Path(package.__file__).parent.iterdir()}
    hidden = {name for name, module in imported.items() if module and name in submodules and module != name}
    assert (
        not hidden
    )  # lazy_loader keeps a name from its own module only: importing the other would put it in its place


def test_a_function_is_not_hidden_by_its_module():
    module = import_module("ard.steering.steer")
    assert ard.steer is ard.steering.steer is module.steer


def test_the_version_is_that_of_the_installed_package():
    assert ard.__version__ == import_module("importlib.metadata").version("ard-audio")
