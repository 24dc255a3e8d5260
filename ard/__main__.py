"""`python -m ard` is `ard`."""

from ard.cli import main

main()
