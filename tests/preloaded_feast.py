"""What the process that others are forked from loads: see :mod:`tests.preloaded`."""

from __future__ import annotations

import gc
import os

# One thread: what is forked beside a second one could inherit a lock that nobody opens.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import feast.cli.cli
import feast.infra.compute_engines.local.compute
import feast.infra.offline_stores.contrib.postgres_offline_store.postgres
import feast.infra.online_stores.sqlite
import feast.infra.registry.sql  # noqa: F401

# A collection in a fork would find nothing in all of this, but copy its pages.
gc.freeze()
