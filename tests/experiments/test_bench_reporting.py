"""The benchmark of the report runs through at toy size."""

import pytest

from experiments.bench.reporting import CHROMIUM, main


@pytest.mark.slow
def test_a_report_is_written_and_used_for_every_number_of_concepts():
    lines = main((6, 12), num_clips=12, duration_s=0.3)
    assert len({line.what for line in lines}) == len(lines) == 2 * (5 if CHROMIUM else 2)
    assert all(line.value > 0 for line in lines)
    sizes = [line.value for line in lines if "size" in line.what]
    assert sizes == sorted(sizes)
