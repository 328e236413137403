"""Market features, computed by `featurectl compute` from market.order_book and market.trades."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64

from feature_repo.entities import symbol, timeframe

# What `featurectl check` expects besides ranges: that half of the rows have a value, as they do where books and trades
# arrive, and that none stays the same for more than an hour of minutes.
WHILE_FED = {"max_null_share": "0.5", "check_max_null_share": "warn", "max_stuck": "60"}

market_features_source = PostgreSQLSource(
    name="market_features",
    table="features.market_features",
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row a minute, over the timeframe before it.",
)

market_features_view = FeatureView(
    name="market_features_view",
    entities=[symbol, timeframe],
    ttl=timedelta(minutes=5),
    schema=[
        # What is taken over the timeframe: mean (also where nothing is said), sum, min or max.
        Field(name="bid_ask_spread", dtype=Float64, tags={"aggregate": "mean", "min": "0", **WHILE_FED}),
        Field(
            name="order_book_imbalance", dtype=Float64, tags={"aggregate": "mean", "min": "-1", "max": "1", **WHILE_FED}
        ),
        Field(name="trade_size_avg", dtype=Float64, tags={"aggregate": "mean", "min": "0", **WHILE_FED}),
    ],
    source=market_features_source,
    online=True,
    description="Spread, imbalance and trade size over the newest timeframe, renewed every minute.",
    # Each field is the function of its name in market.py, applied to single book updates or trades. Besides these
    # timeframes a symbol gets those of its candles.
    tags={"computed_from": "ticks", "functions": "market.py", "timeframes": "1m,5m,15m,1h"},
)
