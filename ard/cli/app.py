"""`ard app`: a run in the browser."""

from pathlib import Path

from rich.console import Console

from ard.app.serve import is_loopback, serve
from ard.console import console
from ard.run import Run


def app(
    run: Path, host: str = "127.0.0.1", port: int = 8642, token: str | None = None, device: str | None = None
) -> None:
    """Serve a run in the browser: its report, own clips to listen to, answers to steer, and its rating study.

    Args:
        run: the run's folder.
        host: address to listen on; by default only this machine can reach it.
        port: port to listen on; 0 takes a free one.
        token: what an address must end with to open the pages, as ?token=TOKEN, 16 letters, digits, - and _ or more. On
            an address that other machines reach, one is made if none is given.
        device: what runs the model, such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
    """
    opened = Run.load(run)
    if not is_loopback(host):
        _warn(f"whoever reaches {host} and has the token can use the model; what is sent is not encrypted")
    console.print("Ctrl+C stops the server; the same command goes on, and no saved answer is lost")
    serve(opened, host=host, port=port, token=token, device=device, say=_say, warn=_warn)


def _warn(text: str) -> None:
    console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
