"""What would make a run shorter is what the plan of the changed run says."""

import pytest

from ard.plan import plan
from tests.plan.test_planner import ON, facts_of, paper_facts, stages


def test_what_would_be_faster_is_computed():
    facts = paper_facts()
    made = plan(facts, **ON)
    by_what = {change.what: change.hours for change in made.faster}
    assert list(by_what.values()) == sorted(by_what.values())
    (captions,) = stages(made, "captions")
    served = by_what["captions by a served model (`captioner` of NameConcepts)"]
    assert served == pytest.approx(made.hours - captions.hours)
    facts["steer"]["trainer"]["callbacks"][-1]["init_args"]["clips_per_batch"] = 256
    assert by_what["clips_per_batch 256 in steer.yaml"] == pytest.approx(plan(facts, **ON).hours)
    facts["fit"]["trainer"]["precision"] = "32-true"
    exact = plan(facts, **ON)
    by_what = {change.what: change.hours for change in exact.faster}
    facts["fit"]["trainer"]["precision"] = "bf16-mixed"
    mixed = by_what["SAEs trained with --trainer.precision bf16-mixed"]
    assert mixed == pytest.approx(plan(facts, **ON).hours)
    assert mixed < exact.hours / 1.5


def test_what_is_faster_depends_on_what_there_is():
    facts = paper_facts()
    one_cell = plan(facts, ("concepts",), **ON)
    assert not any("GPUs" in change.what for change in one_cell.faster)
    slow = plan(facts, (4,), **{**ON, "disk_gb_s": 0.2})
    local = next(change for change in slow.faster if change.what == "a local disk of 3 GB/s")
    assert local.hours == pytest.approx(plan(facts, (4,), **ON).hours)
    few = plan(facts_of("demo", tasks=[]), **{**ON, "cores": 2})
    assert any(change.what.startswith("num_workers 2 in") for change in few.faster)
    assert any(change.what.endswith("on 4 cores") for change in few.faster)


def test_eight_gpus_work_on_nine_cells_at_once():
    made = plan(paper_facts(), (4,), **ON)
    (change,) = (change for change in made.faster if change.what == "8 GPUs, a cell on each (`ard jobs`)")
    shared = sum(stage.hours for stage in made.stages if stage.stage in ("audio shards", "extraction"))
    (probing,) = stages(made, "probing")
    assert shared < change.hours < made.hours
    assert change.hours >= shared + probing.disk_hours + 3 * 3 * 409_600_000 * 4096 * 2 / 3e9 / 3600  # one disk for all
