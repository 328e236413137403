"""A URL that is asked for when a run ends, so that somebody notices when none does."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from featurectl.core import redact
from featurectl.errors import UsageError

SECONDS = 10.0
_FAILED = "/fail"


def checked(url: str) -> str:
    """Return a heartbeat's URL, whose path is kept out of all messages: who knows it can ping it.

    Raises:
        UsageError: it is no URL of HTTP.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise UsageError("the heartbeat is not a URL that can be asked for; write https://host/path")
    redact.remember_secrets_of(url)
    for secret in (parts.path.strip("/"), parts.query):
        if len(secret) > 2:
            redact.remember_secret(secret)
    return url


def ping(url: str, exit_code: int, say: Callable[[str], None]) -> None:
    """Ask for the URL, with ``/fail`` behind its path where the run did not do all of its work; say if that fails."""
    from http.client import HTTPException
    from urllib.request import urlopen  # 0.1 s, and only where somebody listens

    parts = urlsplit(url)
    path = parts.path if exit_code == 0 else parts.path.rstrip("/") + _FAILED
    try:
        with urlopen(urlunsplit(parts._replace(path=path)), timeout=SECONDS) as answer:  # scheme checked
            answer.read(1)
    except (OSError, HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
        say(f"the heartbeat at {parts.hostname} was not heard: {reason}; check the URL, and that the host is up")
