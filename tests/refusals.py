"""What a command shows that refuses what it is given."""

import pytest

from ard.cli import main


def refused(capsys, *args):
    """Run a command that must fail with exit code 2, and return its one line."""
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ard: ")
    return line
