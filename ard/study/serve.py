"""The server process of `ard app`."""

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

from ard.reports.sounds import Sound, copy_sounds
from ard.study import Store
from ard.types import UserError


def serve(store: Store, shards: Path, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve a study until the process is stopped; it may be killed, for every answer is on disk before it is confirmed.

    Args:
        store: the study.
        shards: folder with the audio shards of its clips, each split in a folder of its own.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        say: is called with the address of the page.

    Raises:
        UserError: if the server's packages or a clip are missing, or the address is not available.
    """
    try:
        import uvicorn  # an extra, which only this command needs

        from ard.study.page import make_app
    except ImportError as error:
        raise UserError(
            f"`ard app` needs the package {error.name!r}: install it with `pip install 'ard-audio[app]'`"
        ) from error
    audio = store.path.parent / "audio"
    sounds = study_sounds(store, shards, audio)
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}:{port} ({error}): choose another --port or --host") from error
    app = make_app(store, sounds, audio, hosts=[host, "localhost"] if is_loopback(host) else ["*"])
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    say(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listening])


def study_sounds(store: Store, shards: Path, audio: Path) -> dict[str, Sound]:
    """Copy the audio of a study's clips from the shards, and return it by clip.

    Raises:
        UserError: if some of it is missing or cannot be read.
    """
    wanted = dict.fromkeys(clip for concept in store.concepts for clip in concept.clips)
    sounds = copy_sounds(sorted(shards.glob("*")), wanted, audio) if shards.is_dir() else {}
    missing = [clip for clip in wanted if clip not in sounds]
    if missing:
        raise UserError(
            f"{len(missing)} of the study's {len(wanted)} clips, {missing[0]!r} first, cannot be read from the audio "
            f"shards in {str(shards)!r}: put back the shards that the run was made from"
        )
    return sounds


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
