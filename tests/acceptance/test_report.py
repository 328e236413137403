"""`featurectl report`: its page says what the tables hold, whatever that is, and a browser draws all of it."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featurectl.core.entity import TIMEFRAMES, EntityId
from featurectl.core.gaps import declare
from featurectl.core.materialize import choose_views, materialize
from featurectl.core.report import page as html
from featurectl.core.report.coverage import MOST_CELLS, cells_of, read_coverage
from featurectl.core.report.model import Drift, Verdict
from featurectl.core.report.prices import MOST_BUCKETS, bucket_step, read_prices
from featurectl.core.report.rows import read_nulls
from featurectl.core.statistics.profile import is_pooled
from featurectl.core.times import ALWAYS, Window
from featurectl.reporting import ReportAsked, report
from featurectl.statistics import Chosen, DriftAsked, drift
from tests.browser import CHROMIUM, Page, open_browser
from tests.fix_database import create_database, drop_database
from tests.fix_repository import Repo
from tests.market import FEATURES, START, TECHNICAL, VIEW, Market, put, random_bars, select, take

pytestmark = pytest.mark.xdist_group("report")  # one market, one browser

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium (Debian's package chromium) is not on this machine"
)

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOW = START + 40 * DAY + timedelta(minutes=20)
WINDOW = Window(START + 10 * DAY, START + 40 * DAY)
HOSTILE = "<script>alert(1)</script>"
CLOSING = "</script><b>'\"&amp;"
SECTIONS = {"coverage", "gaps", "freshness", "checks", "drift", "distributions", "nulls", "prices"} | {
    "consistency",
    "runs",
    "storage",
}
# Bars by number that the files lacked: 6 in a row, one alone, and what the exchange never had.
LOST, ABSENT = (*range(500, 506), 700), range(600, 610)


@pytest.fixture(scope="module")
def shop(
    server: str, applied_repository: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    """A market with gaps, warm-ups, nulls, runs that failed, and names that are markup."""
    root, template = applied_repository
    name = f"featurectl_test_report_{random.randrange(2**40):x}"
    repo = Repo(tmp_path_factory.mktemp("report") / "market", create_database(server, name, template))
    shutil.copytree(root, repo.root)
    draw = np.random.default_rng(7)
    whole = random_bars(draw, 960)
    kept = sorted(set(range(960)) - set(LOST) - set(ABSENT))
    series = [
        take(whole, kept),
        random_bars(draw, 960, symbol="ETHUSDT"),
        random_bars(draw, 240, symbol="ETHUSDT", timeframe="4h"),
        random_bars(draw, 400, symbol=HOSTILE, start=START + 40 * DAY - 400 * HOUR),
        random_bars(draw, 300, symbol=CLOSING, start=START + 40 * DAY - 300 * HOUR),
    ]
    with repo.connect() as connection:
        market = Market(repo, connection)
        market.ingest(*series, now=NOW)
        scores = [START + 30 * DAY + number * HOUR for number in range(0, 240, 5)]
        put(
            connection,
            "signals",
            [{"symbol": "BTCUSDT", "name": "news_sentiment", "time": at, "score": 0.5} for at in scores],
        )
        declare(connection, ["BTCUSDT_1h"], at(ABSENT[0]), at(ABSENT[-1]), f"outage {HOSTILE}", now=NOW)
        market.compute(now=NOW)
        materialize(connection, "market", choose_views(market.catalog, ()), ALWAYS, now=NOW)
        error = f"{CLOSING}<img src=x onerror=alert(2)> password=hunter2 postgresql://u:hunter2@h/d"
        connection.execute(
            "INSERT INTO featurectl.runs (run_id, project, command, arguments, version, config_hash, started_at, "
            "finished_at, verdict, exit_code, error, host, pid) VALUES "
            "('20240101T000000-abcdef', 'market', 'compute', '[]', '0.1.0', 'x', %s, %s, 'failed', 3, %s, 'h', 1)",
            (NOW - HOUR, NOW - HOUR, error),
        )
        yield market
    drop_database(server, name)


def at(number: int) -> datetime:
    """Return when the bar of a number opens."""
    return START + number * HOUR


@dataclass(frozen=True)
class Written:
    """A page as it was written: its file, its text, and what its elements are."""

    path: Path
    text: str
    stderr: str

    @property
    def elements(self) -> list[tuple[str, dict[str, str | None]]]:
        return Elements.of(self.text)

    def figure(self, name: str) -> Any:
        """Return the figure of a chart."""
        (found,) = re.findall(rf'<script type="application/json" id="figure-{name}">(.*?)</script>', self.text)
        return json.loads(found)

    def section(self, name: str) -> str:
        """Return what a section says, without its markup."""
        (found,) = re.findall(rf'<section id="{name}">(.*?)</section>', self.text, re.DOTALL)
        return " ".join(re.sub(r"<script.*?</script>|<[^>]*>", " ", found, flags=re.DOTALL).split())


class Elements(HTMLParser):
    """Collects the elements of a page as a browser would find them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    @classmethod
    def of(cls, text: str) -> list[tuple[str, dict[str, str | None]]]:
        parser = cls()
        parser.feed(text)
        return parser.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def write(market: Market, *words: str, code: int = 0, name: str = "page.html") -> Written:
    path = market.repo.root / name
    path.unlink(missing_ok=True)
    done = market.repo.call("report", "-o", path, *words, env={"FEATURECTL_NOW": NOW.isoformat()})
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return Written(path, path.read_text(encoding="utf-8") if path.exists() else "", done.stderr)


@pytest.fixture(scope="module")
def page(shop: Market) -> Written:
    """The page of the whole market, with two charts of prices chosen."""
    return write(shop, "--entity", f"BTCUSDT_1h,{HOSTILE}_1h", "--title", f"Look {HOSTILE}", name="whole.html")


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_has_every_section_and_a_summary_that_leads_to_them(page: Written) -> None:
    ids = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert set(ids) == SECTIONS == set(html.SECTIONS)
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert links == {f"#{name}" for name in SECTIONS}
    assert "window: 2024-01-11T00:00:00Z .. 2024-02-10T00:00:00Z" in page.stderr
    assert "whole.html: " in page.stderr and "complete: warn" in page.stderr
    charts = [attributes for tag, attributes in page.elements if attributes.get("class") == "chart"]
    assert {one["id"] for one in charts} >= {"coverage", "gaps", "nulls", "price-1", "price-2"}
    assert all(one["role"] == "img" and len(one["aria-label"] or "") > 20 for one in charts)
    root = dict(page.elements[0][1])
    assert (page.elements[0][0], root) == ("html", {"lang": "en"})


def test_the_page_asks_nothing_of_any_network(page: Written) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form"), tag
        assert "src" not in attributes
        assert not (attributes.get("href") or "#").startswith(("http", "//"))
    styles = "".join(re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL))
    assert styles and "url(" not in styles and "@import" not in styles
    (policy,) = [one["content"] or "" for tag, one in page.elements if one.get("http-equiv")]
    assert policy.startswith("default-src 'none'; ")
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    named = [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts]
    assert f"script-src {' '.join(named)};" in policy


def test_no_text_becomes_markup_and_no_secret_stays(page: Written) -> None:
    assert "<script>alert" not in page.text and "onerror=alert(2)>" not in page.text
    tags = [tag for tag, _ in page.elements]
    assert not {"b", "img"} & set(tags)
    assert tags.count("script") == 2 + 1 + len([1 for _, one in page.elements if one.get("class") == "chart"])
    assert "hunter2" not in page.text
    runs = page.section("runs")
    assert "&lt;img src=x onerror=alert(2)&gt; password=*** postgresql://u:***@h/d" in runs
    assert f"<title>Look {HOSTILE.replace('<', '&lt;').replace('>', '&gt;')}</title>" in page.text
    labels = page.figure("coverage")["layout"]["yaxis"]["ticktext"]
    assert all("<" not in label for label in labels)
    assert any("&lt;/script&gt;&lt;b&gt;" in label for label in labels)
    texts = json.dumps([page.figure(name) for name in ("coverage", "gaps", "price-2")])
    assert "<script" not in texts and "&lt;script&gt;alert(1)" in texts


def test_json_in_the_page_is_json_and_nothing_else() -> None:
    text = f"{HOSTILE}{CLOSING}<!-- \u2028 \u2029 ]]>"
    there = html.harmless(json.dumps({"text": text}, ensure_ascii=False))
    assert not set("<>&\u2028\u2029") & set(there)
    assert json.loads(there) == {"text": text}


def test_each_section_says_what_there_is(page: Written) -> None:
    assert "7 of 2,320 bars are missing in 5 series; 10 more are known absent" in page.section("coverage")
    assert "2024-01-21 20:00 2024-01-22 01:00 6 no" in page.section("gaps")
    assert "outage &lt;script&gt;alert(1)&lt;/script&gt;" in page.section("gaps")
    assert "✓ ok technical_indicators_view 1h 0 bars 20m ago" in page.section("freshness")
    assert "✕ failed 20240101T000000-abcdef compute 1h ago" in page.section("runs")
    assert "features.technical_indicators" in page.section("storage")
    assert "No rows in this window: market_features_view" in page.section("nulls")


def test_a_page_of_some_ids_and_views_is_of_them_alone(shop: Market) -> None:
    some = write(shop, "ETHUSDT", "--view", VIEW, "--start", "2024-01-05", "--end", "2024-01-08T12:00Z")
    assert "4h 0" not in some.section("coverage")
    rows = some.figure("coverage")["layout"]["yaxis"]["ticktext"]
    assert sorted(rows) == ["ETHUSDT_1h", "ETHUSDT_4h"]
    assert len(some.figure("coverage")["data"][0]["x"]) == 5  # the edges of four days
    assert some.figure("nulls")["layout"]["yaxis"]["ticktext"] == list(FEATURES)
    assert "Only ETHUSDT" in " ".join(re.sub(r"<[^>]*>", " ", some.text.partition("<main>")[0]).split())
    assert (
        "BTCUSDT"
        not in some.text.replace("featurectl", "")
        .partition("<footer>")[0]
        .partition("<main>")[2]
        .split('<section id="storage"')[0]
        .split('<section id="runs"')[0]
    )


def test_an_empty_market_has_a_page_that_says_so(repo: Repo) -> None:
    done = repo.call("report", env={"FEATURECTL_NOW": NOW.isoformat()})
    assert done.returncode == 0, done.stderr
    text = (repo.root / "report.html").read_text()
    empty = Written(repo.root / "report.html", text, done.stderr)
    for name in ("coverage", "gaps", "prices"):
        assert "There are no candles; `featurectl ingest candles` brings them in." in empty.section(name)
    assert "No rows in this window" in empty.section("nulls")
    assert "Nothing has run yet." in empty.section("runs")


def test_what_can_not_be_read_says_so_and_hides_nothing(shop: Market) -> None:
    shop.connection.execute("ALTER TABLE features.technical_indicators RENAME COLUMN macd TO mcad")
    try:
        broken = write(shop, "--entity", "ETHUSDT_1h", code=5)
    finally:
        shop.connection.execute("ALTER TABLE features.technical_indicators RENAME COLUMN mcad TO macd")
    assert "✕ not available" in broken.section("prices")
    assert "macd" in broken.section("prices")
    assert re.search(r"not available technical_indicators_view: .*macd", broken.section("nulls"))
    assert "news_sentiment" in broken.figure("nulls")["layout"]["yaxis"]["ticktext"]
    assert "7 of 2,320 bars" in broken.section("coverage")
    assert re.search(r"error: \d sections of .*page.html can't be read: .*prices: column s.macd", broken.stderr)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "-"), "name a file: -o report.html"),
        (("-o", "report.json"), "the page is HTML"),
        (("-o", "missing/report.html"), "can't be written"),
        (("NOPEUSDT",), "symbol 'NOPEUSDT' not found"),
        (("BTCUSDT_5m",), "entity 'BTCUSDT_5m' not found"),
        (("--entity", "NOPEUSDT_1h"), "entity 'NOPEUSDT_1h' not found"),
        (("--view", "nope"), "view 'nope' not found"),
        (("--start", "2024-02-01", "--end", "2024-01-01"), "starts"),
        (("--baseline", "b", "--reference", "-2d", "-1d"), "contradict each other"),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_page_of_before_stays(
    shop: Market, words: tuple[str, ...], said: str
) -> None:
    before = shop.repo.root / "report.html"
    before.write_text("from before")
    done = shop.repo.call("report", *words, env={"FEATURECTL_NOW": NOW.isoformat()})
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert before.read_text() == "from before"
    assert not list(shop.repo.root.glob(".featurectl-*.html"))


def test_without_plotly_one_line_says_how_to_get_it(shop: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = shop.repo.call("report")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith('pip install "featurectl[report]"')


# --- figures ---------------------------------------------------------------------------------------------------------


def test_coverage_by_day_is_what_the_candles_are(shop: Market, page: Written) -> None:
    found = read_coverage(shop.connection, (), WINDOW, now=NOW)
    frame = pd.DataFrame(
        shop.connection.execute("SELECT symbol, timeframe, open_time FROM market.candles").fetchall(),
        columns=["symbol", "timeframe", "opened"],
    )
    days = pd.date_range("2024-01-11", "2024-02-09", tz="UTC")
    assert found.cells.starts == list(days)
    assert {str(row.entity) for row in found.rows} == set(frame.symbol + "_" + frame.timeframe)
    for row in found.rows:
        own = frame[(frame.symbol == row.entity.symbol) & (frame.timeframe == row.entity.timeframe)].opened
        step = TIMEFRAMES[row.entity.timeframe]
        grid = pd.date_range(max(own.min(), WINDOW.start), WINDOW.end - step, freq=step)
        due = grid.normalize().value_counts().reindex(days, fill_value=0)
        there = own[own.between(WINDOW.start, WINDOW.end)].dt.normalize().value_counts().reindex(days, fill_value=0)
        assert list(row.expected) == due.tolist()
        assert [m + a for m, a in zip(row.missing, row.absent, strict=True)] == (due - there).tolist()
    btc = next(row for row in found.rows if str(row.entity) == "BTCUSDT_1h")
    assert {index: count for index, count in enumerate(btc.missing) if count} == {10: 4, 11: 2, 19: 1}
    assert {index: count for index, count in enumerate(btc.absent) if count} == {15: 10}
    assert found.verdict is Verdict.WARN
    chart = page.figure("coverage")["data"][0]
    place = page.figure("coverage")["layout"]["yaxis"]["ticktext"].index("BTCUSDT_1h")
    assert chart["z"][place][10:13] == [2, 2, 0]
    assert chart["hovertext"][place][10] == "BTCUSDT_1h, 2024-01-21<br>20 of 24 bars (83.3%)"
    assert chart["hovertext"][place][15] == "BTCUSDT_1h, 2024-01-26<br>14 of 14 bars (100.0%)<br>10 known absent"


def test_null_shares_by_day_are_those_of_the_rows(shop: Market) -> None:
    view, scores = shop.view, shop.catalog.view("sentiment_features_view")
    found = read_nulls(shop.connection, [select(view), select(scores)], [], WINDOW, cells_of(WINDOW))
    assert not found.unreadable
    for one, features, table in (
        (view, FEATURES, TECHNICAL),
        (scores, ("news_sentiment", "social_sentiment"), "features.sentiment_features"),
    ):
        frame = pd.DataFrame(
            shop.connection.execute(f"SELECT event_timestamp, {', '.join(features)} FROM {table}".encode()).fetchall(),
            columns=["event", *features],
        )
        frame = frame[frame.event.between(WINDOW.start, WINDOW.end)]
        # A bar that closes at midnight is of the day that ends; the first one of the window is of its first day.
        day = (frame.event - timedelta(microseconds=1)).dt.normalize().clip(lower=WINDOW.start)
        groups = frame.set_index(day).drop(columns="event")
        days = pd.DatetimeIndex(found.cells.starts)
        rows = groups.groupby(level=0).size().reindex(days, fill_value=0)
        nulls = groups.isna().groupby(level=0).sum().reindex(days, fill_value=0)
        by_name = {row.feature: row for row in found.rows if row.view == one.name}
        for feature in features:
            assert list(by_name[feature].rows) == rows.tolist()
            assert list(by_name[feature].nulls) == nulls[feature].tolist()
    rsi = next(row for row in found.rows if row.feature == "rsi_14")
    assert sum(rsi.nulls) == 2 * 14, "the warm-ups of the two series that begin in the window"


def test_prices_are_put_together_as_pandas_does(shop: Market) -> None:
    found = read_prices(shop.connection, EntityId("BTCUSDT", "1h"), [select(shop.view)], WINDOW, now=NOW)
    assert found.step == 3 * HOUR and len(found.buckets) <= MOST_BUCKETS + 1
    frame = pd.DataFrame(
        shop.connection.execute(
            "SELECT open_time, open, high, low, close, volume FROM market.candles "
            "WHERE symbol = 'BTCUSDT' AND timeframe = '1h' ORDER BY 1"
        ).fetchall(),
        columns=["at", "open", "high", "low", "close", "volume"],
    ).set_index("at")
    frame = frame[WINDOW.start - HOUR : WINDOW.end - HOUR]
    wanted = frame.resample("3h", origin=WINDOW.start - HOUR).agg(
        {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    )
    wanted["count"] = frame.resample("3h", origin=WINDOW.start - HOUR).size()
    wanted = wanted[wanted["count"] > 0]
    got = pd.DataFrame([(b.start, b.open, b.high, b.low, b.close, b.volume, b.count) for b in found.buckets])
    assert got[0].tolist() == list(wanted.index)
    np.testing.assert_allclose(got.iloc[:, 1:].to_numpy(float), wanted.to_numpy(float), rtol=1e-12)
    assert found.bars == len(frame)


def test_features_stand_in_the_bucket_of_their_bar_and_nulls_are_seen(shop: Market, page: Written) -> None:
    window = Window(START + 20 * DAY, START + 37 * DAY)
    entity = EntityId(HOSTILE, "1h")
    found = read_prices(shop.connection, entity, [select(shop.view)], window, now=NOW)
    events = {at - HOUR: row for at, row in shop.features(HOSTILE).items() if window.start <= at <= window.end}
    frame = pd.DataFrame.from_dict(events, orient="index")
    buckets = frame.rsi_14.resample(found.step, origin=found.first)
    wanted = pd.DataFrame({"rows": buckets.size(), "values": buckets.count(), "last": buckets.last()})
    wanted = wanted.assign(least=buckets.min(), greatest=buckets.max())
    wanted = wanted[wanted.rows > 0]
    (line,) = [one for one in found.lines if one.feature == "rsi_14"]
    got = pd.DataFrame([(p.start, p.rows, p.values, p.last, p.least, p.greatest) for p in line.points])
    assert got[0].tolist() == list(wanted.index)
    np.testing.assert_allclose(got.iloc[:, 1:].to_numpy(float), wanted.to_numpy(float), rtol=1e-12)
    # A warm-up is a shade, not a value.
    chart = page.figure("price-2")
    shapes = [one for one in chart["layout"]["shapes"] if one["x0"].startswith("2024-01-2")]
    assert shapes and all(one["type"] == "rect" for one in shapes)
    titles = [one["text"] for one in chart["layout"]["annotations"]]
    assert "rsi_14 (14 null)" in titles and "price, ema_20" in titles


def test_lines_break_where_bars_are_missing(page: Written) -> None:
    chart = page.figure("price-1")
    ema = next(one for one in chart["data"] if one.get("name") == "ema_20")
    empty = [x for x, y in zip(ema["x"], ema["y"], strict=True) if y is None]
    assert any(x.startswith(("2024-01-21T2", "2024-01-22T0")) for x in empty)
    assert ema["connectgaps"] is False


@pytest.mark.parametrize("days", [1, 30, 190, 191, 1000, 40_000])
def test_a_window_is_cut_into_no_more_cells_than_a_screen_has(days: int) -> None:
    cells = cells_of(Window(START, START + days * DAY))
    assert cells.count <= MOST_CELLS and cells.count * cells.step >= days * DAY
    assert (cells.count - 1) * cells.step < days * DAY
    assert bucket_step("1h", days * DAY) * MOST_BUCKETS >= days * DAY


def test_of_many_series_the_worst_are_shown(shop: Market, repo: Repo) -> None:
    with repo.connect() as connection:
        with connection.cursor() as cursor, cursor.copy("COPY market.candles FROM STDIN") as copy:
            for number in range(60):
                for bar in range(48):
                    if bar == 0 or bar == 47 or bar % (number + 2):
                        copy.write_row((f"S{number:02}", "1h", at(bar), 1, 1, 1, 1, 1, None, None, START))
        found = read_coverage(connection, (), Window(START, START + 2 * DAY), now=NOW)
    assert (found.series, len(found.rows)) == (60, 40)
    assert [str(row.entity) for row in found.rows[:3]] == ["S00_1h", "S01_1h", "S02_1h"]
    assert found.missing == sum(sum(bar % (number + 2) == 0 for bar in range(1, 47)) for number in range(60))
    assert found.verdict is Verdict.FAIL


def test_library_and_command_gather_the_same(shop: Market) -> None:
    found = report(shop.repo.database, ReportAsked(entities=("ETHUSDT_1h",)), now=NOW)
    assert found.head.window == WINDOW and not found.failures
    assert [card.title for card in html.cards(found)] == ["Fresh", "Complete", "Checks", "Drift"]
    assert html.cards(found)[1].text == "7 of 2,320 bars are missing in 5 series"


def test_drift_is_that_of_the_library_and_the_movers_come_first(shop: Market, page: Written) -> None:
    found = drift(shop.repo.database, DriftAsked(Chosen(views=(VIEW,)), WINDOW))
    section = report(shop.repo.database, ReportAsked(views=(VIEW,)), now=NOW).drift
    assert isinstance(section, Drift) and section.total == len(found.drifts)
    verdicts = [one.verdict for one in found.drifts]
    assert section.moved == verdicts.count("warn") + verdicts.count("fail")
    assert section.unjudged == verdicts.count("insufficient data") > 0
    card = next(
        card
        for card in html.cards(report(shop.repo.database, ReportAsked(views=(VIEW,)), now=NOW))
        if card.title == "Drift"
    )
    assert card.text.endswith(f"; {section.unjudged} could not be judged")
    wanted = [(one.feature, one.entity or "", one.psi) for one in found.drifts if one.psi is not None]
    assert [(one.feature, one.entity, one.psi) for one in section.movers][: len(wanted)] == wanted[:30]
    pooled = {
        f"{one.feature} {one.entity}": one for one in found.drifts if is_pooled(one.entity) and one.psi is not None
    }
    assert {one.feature for one in section.distributions} == set(pooled)
    for one in section.distributions:
        assert one.current == pooled[one.feature].current_shares
        assert len(one.edges) == len(one.current) + 1 == len(one.reference) + 1
    figures = {name: now for name, now, _ in section.distributions[0].figures}
    feature, _, pool = section.distributions[0].feature.partition(" *_")
    values = pd.Series(
        [
            row[0]
            for row in shop.connection.execute(
                f"SELECT {feature} FROM {TECHNICAL} WHERE timeframe = %s"
                " AND event_timestamp BETWEEN %s AND %s".encode(),
                (pool, WINDOW.start, WINDOW.end),
            )
        ],
        dtype=float,
    )
    assert figures["rows"] == len(values)
    assert figures["p50"] == pytest.approx(values.quantile(0.5), rel=1e-9)
    assert figures["null share"] == pytest.approx(values.isna().mean())
    chart = page.figure("distribution-1")["data"]
    assert [trace["name"] for trace in chart] == ["reference", "window"]
    assert sum(chart[0]["y"]) == pytest.approx(1) and sum(chart[1]["y"]) == pytest.approx(1)


def test_a_reference_of_ones_own_and_a_saved_profile_are_what_is_compared_with(shop: Market) -> None:
    early = write(shop, "--view", VIEW, "--start", "2024-02-01", "--reference", "2024-01-03", "2024-01-20")
    assert "The window against 2024-01-03T00:00:00Z .. 2024-01-20T00:00:00Z" in early.section("drift")
    assert shop.repo.call("baseline", "set", "jan", "--start", "2024-01-03", "--end", "2024-01-20").returncode == 0
    try:
        saved = write(shop, "--view", VIEW, "--start", "2024-02-01")
        assert "The window against profile 'jan' of 2024-01-03" in saved.section("drift").replace("&#39;", "'")
        assert [saved.figure(f"distribution-{n}")["data"][0]["y"] for n in (1, 2)] == [
            early.figure(f"distribution-{n}")["data"][0]["y"] for n in (1, 2)
        ]
    finally:
        shop.connection.execute("DELETE FROM featurectl.profiles")
    done = shop.repo.call("report", "--baseline", "nope")
    assert (done.returncode, "'nope' not found" in done.stderr) == (2, True)


def test_checks_that_found_something_are_told_the_worst_first(shop: Market) -> None:
    rows = "symbol = 'ETHUSDT' AND timeframe = '1h' AND event_timestamp > '2024-02-09T20:00Z'"
    before = shop.repo.rows(f"SELECT event_timestamp, rsi_14 FROM {TECHNICAL} WHERE {rows}")
    shop.connection.execute(f"UPDATE {TECHNICAL} SET rsi_14 = 170 WHERE {rows}".encode())
    try:
        bad = write(shop)
    finally:
        for event, value in before:
            statement = f"UPDATE {TECHNICAL} SET rsi_14 = %s WHERE {rows} AND event_timestamp = %s"
            shop.connection.execute(statement.encode(), (value, event))
    assert "checks: fail" in bad.stderr
    assert re.search(r"✕ fail max technical_indicators_view: rsi_14 4 \d", bad.section("checks"))
    # What was changed behind compute's back is not what is online, nor what computing it again gives.
    assert re.search(r"✕ fail technical_indicators_view online with history \d+ 1 ", bad.section("consistency"))


def test_what_is_online_and_what_is_computed_again_are_compared(page: Written) -> None:
    found = page.section("consistency")
    assert re.search(r"✓ ok technical_indicators_view online with history 30 0 0 0 0 5 of 5", found), found
    assert re.search(r"✓ ok technical_indicators_view history with computed again 30 0 0 0 0 5 of 5", found), found


# --- the browser -----------------------------------------------------------------------------------------------------


LOOK = """({
    drawn: [...document.querySelectorAll(".chart")].filter((one) => one.querySelector(".main-svg")).length,
    charts: document.querySelectorAll(".chart").length,
    errors: [...document.querySelectorAll(".chart-error")].map((one) => one.textContent),
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    page: getComputedStyle(document.body).backgroundColor,
    text: getComputedStyle(document.querySelector("#coverage .main-svg text")).fill,
    line: getComputedStyle(document.querySelector("#price-1 .scatterlayer path.js-line")).stroke,
    drag: [...document.querySelectorAll(".chart")].map((one) => one._fullLayout.dragmode),
    labels: [...document.querySelectorAll(".chart text")].filter((one) => one.textContent.trim())
        .map((one) => parseFloat(getComputedStyle(one).fontSize)),
    wide: [...document.querySelectorAll(".chart .main-svg")].map((one) => one.getBoundingClientRect().right),
    alerted: window.alerted ?? false,
})"""
DRAWN = "Boolean(document.documentElement?.dataset.drawn)"


def check(page: Page, width: int) -> dict[str, Any]:
    """Expect that everything was drawn, within the window, of nothing but the file; return what there is."""
    page.wait_for(DRAWN)
    look = dict(page.evaluate(LOOK))
    assert look["drawn"] == look["charts"] >= 5, look
    assert (look["errors"], page.problems) == ([], [])
    assert look["overflow"] <= 0 and max(look["wide"]) <= width
    assert min(look["labels"]) >= 10
    assert {url.partition(":")[0] for url in page.requests} <= {"file", "data", "blob"}
    assert [url for url in page.requests if url.startswith("file")] == page.requests[:1]
    return look


@needs_browser
def test_a_browser_draws_every_chart_on_desk_and_phone_by_day_and_night(page: Written, tmp_path: Path) -> None:
    with open_browser(tmp_path) as browser:
        desk = browser.open(page.path, width=1280)
        day = check(desk, 1280)
        assert set(day["drag"]) == {"zoom"}
        desk.prefer("dark")
        desk.wait_for(f"{LOOK}.text !== {json.dumps(day['text'])}")
        night = check(desk, 1280)
        assert all(night[name] != day[name] for name in ("page", "text", "line"))
        phone = browser.open(page.path, width=390, scheme="dark", touch=True)
        look = check(phone, 390)
        assert all(look[name] == night[name] for name in ("page", "text", "line"))
        # A finger on a chart scrolls the page.
        assert set(look["drag"]) == {False}
        # Paper is white.
        for event, colour in (("beforeprint", day["text"]), ("afterprint", night["text"])):
            phone.evaluate(f"void window.dispatchEvent(new Event('{event}'))")
            phone.wait_for(f"{LOOK}.text === {json.dumps(colour)}")
        plain = browser.open(page.path, width=390, script=False)
        plain.wait_for("document.readyState === 'complete' && document.querySelectorAll('table').length > 4")
        assert plain.evaluate("document.querySelector('.chart').innerText").startswith("Charts need JavaScript")
        assert plain.evaluate("document.documentElement.scrollWidth") == 390
