"""The server process of `ard app`."""

import ipaddress
import re
import secrets
import socket
from collections.abc import Callable
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING

from ard.app.guard import RATE, raters_token
from ard.app.jobs import Jobs
from ard.console import at_work
from ard.files import claim
from ard.run import Run
from ard.study import Store
from ard.types import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ard.app.subject import Subject

Say = Callable[[str], None]

TOKEN = re.compile(r"[\w-]{16,}", re.ASCII)
"""What a token is: it stands in addresses, and whoever has the raters' token must not find it by trying."""


def serve(
    run: Run, *, host: str, port: int, token: str | None = None, device: str | None = None, say: Say, warn: Say
) -> None:
    """Serve a run until the process is stopped; it may be killed, for every rater's answer is on disk when confirmed.

    Args:
        run: the run. Its report is written if there is none, and its model loaded once somebody listens or steers.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        token: what opens the pages, 16 letters, digits, - and _ or more; where other machines reach the address, one is
            made if none is given.
        device: what runs the model; by default a GPU if there is one.
        say: is called with the address of the pages, when the report is written, and when the model is loaded.
        warn: is called with what cannot be served, and why.

    Raises:
        UserError: if the server's packages are missing, the token can be guessed, or the address is not available.
    """
    try:
        import uvicorn  # an extra, which only this command needs

        from ard.app.page import make_app
    except ImportError as error:
        raise UserError(
            f"`ard app` needs the package {error.name!r}: install it with `pip install 'ard-audio[app]'`"
        ) from error
    if token is not None and not TOKEN.fullmatch(token):
        raise UserError(
            f"the token has {len(token)} characters, or some that an address cannot hold: give 16 or more letters, "
            "digits, - and _, or none, and one is made"
        )
    hosts = hosts_of(host)
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(16)
    study = study_app(run, hosts)
    if isinstance(study, str):
        warn(f"no study to rate: {study}")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}:{port} ({error}): choose another --port or --host") from error
    for line in addresses(host, listening.getsockname()[1], token):
        say(line)
    Thread(target=_write_report, args=(run, say, warn), daemon=True).start()
    jobs = Jobs(lambda: _subject(run, device, say, warn))
    app = make_app(run, jobs, study, hosts=hosts, token=token)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            jobs.close()  # or the server would wait for what is being streamed
            super().handle_exit(sig, frame)

    Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)).run(sockets=[listening])


def study_app(run: Run, hosts: list[str]) -> "Starlette | str":
    """Return the application of a run's rating study, or why there is none."""
    from ard.study.page import make_app
    from ard.study.sounds import study_sounds

    try:
        store = Store(run.study)
        audio = store.path.parent / "audio"
        return make_app(store, study_sounds(store, run.folder / "audio", audio), audio, hosts=hosts)
    except UserError as error:
        return str(error)


def hosts_of(host: str) -> list[str]:
    """Return the names by which a browser may ask for the pages; ``*`` for any."""
    return [_in_address(host), "localhost"] if is_loopback(host) else ["*"]


def addresses(host: str, port: int, token: str | None) -> list[str]:
    """Return the address of the pages, and where there is a token also the one for raters."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    url = f"http://{_in_address(name)}:{port}"
    if token is None:
        return [url]
    return [f"{url}/?token={token}", f"for raters, the study alone: {url}{RATE}?token={raters_token(token)}"]


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _write_report(run: Run, say: Say, warn: Say) -> None:
    """Write a report that is missing; what needs none is served meanwhile."""
    if run.report.is_file():
        return
    try:
        with claim(run.folder), at_work("writing the report"):
            from ard.reports import write_report

            say(f"report: {write_report(run.folder)}")
    except UserError as error:
        warn(f"no report: {error}")


def _subject(run: Run, device: str | None, say: Say, warn: Say) -> "Subject":
    """Load the model in the thread that will use it: the pages need not wait for it."""
    try:
        from transformers.utils.logging import disable_progress_bar

        from ard.app.subject import Subject
        from ard.audiollm import usable_device

        disable_progress_bar()
        usable = usable_device(device)
        subject = Subject.load(run, usable)
    except UserError as error:
        warn(f"nothing can be listened to or steered: {error}")
        raise
    say(f"{run.model} is loaded on {usable}")
    return subject
