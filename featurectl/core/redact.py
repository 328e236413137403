"""Keep secrets out of everything that is printed, logged or stored."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

# Greedy up to the last @ of the word: a password may hold an unquoted @.
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@]*:)(?P<password>\S*)(?=@)", re.IGNORECASE)
_KEY_VALUE = re.compile(
    r"(?P<head>\b\w*(?:password|passwd|pwd|token|secret|api_?key)['\"]?\s*[=:]\s*)"
    r"(?P<secret>'[^']*'|\"[^\"]*\"|[^\s&'\";,]+)",
    re.IGNORECASE,
)
MASK = "***"

_known: set[str] = set()


def remember_secrets_of(url: str) -> None:
    """Mask the password of ``url`` wherever it turns up from now on, quoted or not."""
    if match := _URL_PASSWORD.search(url):
        password = match["password"]
        _known.update(
            form for form in (password, unquote(password), quote(unquote(password), safe="")) if len(form) > 2
        )
    for match in _KEY_VALUE.finditer(url):
        secret = match["secret"].strip("'\"")
        _known.update(form for form in (secret, unquote(secret)) if len(form) > 2)


def redact(text: str) -> str:
    """Return ``text`` with passwords in URLs, ``password=…`` pairs and known secrets masked."""
    text = _URL_PASSWORD.sub(lambda match: match["head"] + MASK, text)
    text = _KEY_VALUE.sub(lambda match: match["head"] + MASK, text)
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
