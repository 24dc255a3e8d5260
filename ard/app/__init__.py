"""The web page: people listen to concepts, label them and rate their names (`ard app`, `ard study`)."""

from ard.app.commands import app, export, import_, make, rate, score
from ard.app.serve import serve

__all__ = ["app", "export", "import_", "make", "rate", "score", "serve"]
