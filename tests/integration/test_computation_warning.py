"""What `compute` says where the database holds nothing that features come from."""

from __future__ import annotations

from tests.fix_repository import Repo


def test_scores_of_the_whole_market_alone_give_nothing_to_compute_from(repo: Repo) -> None:
    repo.ok("ingest", "signals", "-", "--name", "fear_greed_index", input=b"time,score\n2024-08-01,30\n")
    done = repo.run("compute")
    assert done.returncode == 0
    assert "there is nothing to compute from yet: no candles, order book, trades, or signals of a symbol" in done.stderr
    assert "bring some in with `featurectl ingest`" in done.stderr
    repo.ok(
        "ingest", "signals", "-", "--name", "news_sentiment", "--symbol", "A", input=b"time,score\n2024-08-01,0.5\n"
    )
    assert "nothing to compute from" not in repo.run("compute").stderr
