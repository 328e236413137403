"""Secrets stay out of what is printed."""

import pytest

from featurectl.core import redact


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:hunter2pass@host:5432/db",
        "could not connect to postgresql+psycopg://user:hunter2pass@host/db?sslmode=require",
        "postgresql://user:hunter2pass@with@at@host/db",
        "host=h password=hunter2pass user=u",
        "password: 'hunter2pass'",
        "PGPASSWORD=hunter2pass psql",
        "{'password': 'hunter2pass'}",
    ],
)
def test_passwords_are_masked(text: str) -> None:
    assert "hunter2pass" not in redact.redact(text)
    assert redact.MASK in redact.redact(text)


def test_a_password_that_was_seen_in_a_url_is_masked_alone_and_decoded() -> None:
    redact.remember_secrets_of("postgresql://u:s3cr%40t-word@h/d")
    assert redact.redact("it said s3cr@t-word and s3cr%40t-word") == "it said *** and ***"


@pytest.mark.parametrize("text", ["postgresql://host/db", "12:30@noon", "rows: 5", "a@b.c wrote", "view:rsi_14"])
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert redact.redact(text) == text
