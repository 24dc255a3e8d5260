"""How long a stage takes, from what it asks of GPU, cores and disk."""

import pytest

from ard.plan.gpus import GPUS
from ard.plan.machine import WRITE_GB_S, Machine
from ard.plan.stages import StagePlan

MACHINE = Machine(GPUS["H100"], 4, 2.0, 0.4)
STAGE = StagePlan("a", "b", gpu_s=3600.0, cpu_s=7200.0, read_bytes=int(2e9 * 1800))


@pytest.mark.parametrize(
    ("overlaps", "processes", "hours", "longest"),
    [
        (False, 1, 3.5, "CPU"),
        (True, 1, 2.0, "CPU"),
        (True, 3, 1.0, "GPU"),
        (True, 8, 1.0, "GPU"),
        (False, 8, 2.0, "GPU"),
    ],
)
def test_a_stage_takes_the_slowest_or_all_of_it(overlaps, processes, hours, longest):
    stage = StagePlan(**{**vars(STAGE), "overlaps": overlaps, "processes": processes}).on(MACHINE)
    assert stage.hours == pytest.approx(hours)
    assert (stage.gpu_hours, stage.disk_hours) == (1.0, pytest.approx(0.5))
    assert stage.cpu_hours == pytest.approx(2 / min(processes, 4))
    assert stage.longest == longest


def test_shards_are_written_no_faster_than_they_are_made():
    written = StagePlan("a", "b", written_bytes=int(1e9))
    assert written.on(MACHINE).disk_hours * 3600 == pytest.approx(1 / WRITE_GB_S)
    assert written.on(MACHINE._replace(disk_gb_s=0.1)).disk_hours * 3600 == pytest.approx(10)
    assert StagePlan("a", "b").on(MACHINE).longest == ""
