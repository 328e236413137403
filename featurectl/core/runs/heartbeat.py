"""A URL that is asked for when a run ends, so that somebody notices when none does."""

from __future__ import annotations

import threading
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
    redact.remember_secrets_of(url)
    if host is None or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise UsageError("the heartbeat is not a URL that can be asked for; write https://host/path")
    # With its slash: a path of one word is not to be masked wherever the word turns up.
    for secret in (parts.path.rstrip("/"), parts.query):
        if len(secret) > 2:
            redact.remember_secret(secret)
    return url


def ping(url: str, exit_code: int, say: Callable[[str], None]) -> None:
    """Ask for the URL, with ``/fail`` behind its path where the run did not do all of its work; say if that fails.

    It takes no longer than :data:`SECONDS`, whatever name servers and a host that answers byte by byte do.
    """
    parts = urlsplit(url)
    path = parts.path if exit_code == 0 else parts.path.rstrip("/") + _FAILED
    failures: list[str] = []
    asking = threading.Thread(
        target=_ask, args=(urlunsplit(parts._replace(path=path)), failures), name="featurectl-heartbeat", daemon=True
    )
    asking.start()
    asking.join(SECONDS)
    if asking.is_alive():
        failures.append(f"no answer within {SECONDS:g} s")
    for reason in failures[:1]:
        say(f"the heartbeat at {parts.hostname} was not heard: {reason}; check the URL, and that the host is up")


def _ask(url: str, failures: list[str]) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen  # 0.1 s, and only where somebody listens

    try:
        with urlopen(url, timeout=SECONDS) as answer:  # scheme checked
            answer.read(1)
    except (OSError, HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
        failures.append(f"{error.code} {reason}" if isinstance(error, HTTPError) else reason)
        if isinstance(error, HTTPError):
            error.close()
