"""Technical indicators of closed bars, computed by `featurectl compute` from market.candles."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64

from feature_repo.entities import symbol, timeframe

# What `featurectl check` expects besides ranges: that rows have a value, but for a series' first 100, where indicators
# are not defined yet, and that none stays the same for more than 12 bars.
DEFINED = {"max_null_share": "0.01", "max_stuck": "12"}
# Null, too, where for 20 bars the price stands still or nothing is traded: odd, but the market's affair.
WHILE_TRADED = {"max_null_share": "0.05", "check_max_null_share": "warn", "max_stuck": "12"}
# In units of price: `featurectl drift` compares it as a share of the close.
PRICE = {"scale": "price"}

technical_indicators_source = PostgreSQLSource(
    name="technical_indicators",
    table="features.technical_indicators",
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row per closed bar, at the bar's close.",
)

technical_indicators_view = FeatureView(
    name="technical_indicators_view",
    entities=[symbol, timeframe],
    ttl=timedelta(hours=1),
    schema=[
        Field(name="rsi_14", dtype=Float64, tags={"min": "0", "max": "100", **DEFINED}),
        Field(name="macd", dtype=Float64, tags={**PRICE, **DEFINED}),
        Field(name="ema_20", dtype=Float64, tags={"min": "0", **PRICE, **DEFINED}),
        # Outside of the bands it is beyond 0 and 1.
        Field(name="bollinger_bands_position", dtype=Float64, tags=WHILE_TRADED),
        Field(name="atr", dtype=Float64, tags={"min": "0", **PRICE, **DEFINED}),
        Field(name="volume_sma_ratio", dtype=Float64, tags={"min": "0", **WHILE_TRADED}),
    ],
    source=technical_indicators_source,
    online=True,
    description="Momentum, trend, volatility and volume of the newest closed bar.",
    # Each field is the function of its name in indicators.py, applied to the bars of market.candles.
    tags={"computed_from": "candles", "functions": "indicators.py"},
)
