"""Technical indicators of closed bars, computed by `featurectl compute` from market.candles."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64

from feature_repo.entities import symbol, timeframe

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
        Field(name="rsi_14", dtype=Float64),
        Field(name="macd", dtype=Float64),
        Field(name="ema_20", dtype=Float64),
        Field(name="bollinger_bands_position", dtype=Float64),
        Field(name="atr", dtype=Float64),
        Field(name="volume_sma_ratio", dtype=Float64),
    ],
    source=technical_indicators_source,
    online=True,
    description="Momentum, trend, volatility and volume of the newest closed bar.",
    # Each field is the function of its name in indicators.py, applied to the bars of market.candles.
    tags={"computed_from": "candles", "functions": "indicators.py"},
)
