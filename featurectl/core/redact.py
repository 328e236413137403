"""Keep secrets out of everything that is printed, logged or stored."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

# Greedy up to the last @ of the word: a password may hold an unquoted @.
_URL_PASSWORD = re.compile(r"(?P<head>[a-z0-9+.-]://[^\s:/@]*:)(?P<password>\S*)(?=@)", re.IGNORECASE)
_KEY_VALUE = re.compile(
    r"(?P<head>\b\w*(?:password|passwd|pwd|token|secret|api_?key)['\"]?\s*[=:]\s*)"
    r"(?P<secret>'[^']*'|\"[^\"]*\"|[^\s&'\";,]+)",
    re.IGNORECASE,
)
# The same for a text that is nothing but a URL, in which a password may hold spaces too.
_USER_AND_PASSWORD = re.compile(r"://[^:/@]*:(?P<password>.*)@")
MASK = "***"

_known: set[str] = set()


def remember_secrets_of(url: str) -> None:
    """Mask the password of ``url`` wherever it turns up from now on, quoted or not."""
    before_query = url.partition("?")[0]
    if match := _USER_AND_PASSWORD.search(before_query if "@" in before_query else url):
        password = match["password"]
        # libpq cuts a password that is not percent-encoded at these characters, and its messages show the pieces.
        pieces = re.split(r"[@/:?#\s]", password)
        forms = (password, unquote(password), quote(unquote(password), safe=""), *pieces)
        _known.update(form for form in forms if len(form) > 2)
    for match in _KEY_VALUE.finditer(url):
        secret = match["secret"].strip("'\"")
        _known.update(form for form in (secret, unquote(secret)) if len(form) > 2)


def remember_secret(text: str) -> None:
    """Mask a text wherever it turns up from now on."""
    _known.add(text)


def redact(text: str) -> str:
    """Return ``text`` with passwords in URLs, ``password=…`` pairs and known secrets masked."""
    text = _URL_PASSWORD.sub(lambda match: match["head"] + MASK, text)
    text = _KEY_VALUE.sub(lambda match: match["head"] + MASK, text)
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
