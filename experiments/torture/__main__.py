"""Run every case, or those of the sections that are named: `python -m experiments.torture [disk ...]`."""

import os
import sys

from experiments.torture import SECTIONS
from experiments.torture.runner import run

if __name__ == "__main__":
    for name in sys.argv[1:]:
        if name not in SECTIONS:
            raise SystemExit(f"section {name!r} does not exist: choose of {', '.join(SECTIONS)}")
    os.environ["OMP_NUM_THREADS"] = "1"  # two cases have a core each
    raise SystemExit(1 if run(sys.argv[1:] or list(SECTIONS)) else 0)
