"""A repository's market and its database over Arrow; tests that want another market have a fixture of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from featurectl.core.arrow import ArrowConnection, open_arrow
from tests.fix_repository import Repo
from tests.market import Market


@pytest.fixture
def market(repo: Repo) -> Iterator[Market]:
    with repo.connect() as connection:
        yield Market(repo, connection)


@pytest.fixture
def arrow(repo: Repo) -> Iterator[ArrowConnection]:
    with open_arrow(repo.database) as connection:
        yield connection
