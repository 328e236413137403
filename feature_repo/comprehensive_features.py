"""All features of a bar in one row, for training: a SQL view over the other views' tables."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource

from feature_repo.entities import symbol, timeframe
from feature_repo.market_features import market_features_view
from feature_repo.sentiment_features import sentiment_features_view
from feature_repo.technical_indicators import technical_indicators_view

VIEWS = [technical_indicators_view, market_features_view, sentiment_features_view]

comprehensive_features_source = PostgreSQLSource(
    name="comprehensive_features",
    table="features.comprehensive_features",
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row per closed bar, with what was known of market and sentiment at its close.",
)

comprehensive_features_view = FeatureView(
    name="comprehensive_features_view",
    entities=[symbol, timeframe],
    ttl=timedelta(days=1),
    schema=[Field(name=field.name, dtype=field.dtype) for view in VIEWS for field in view.features],
    source=comprehensive_features_source,
    online=False,
    description="All features as of the bar's close, each within its own view's TTL; for training only.",
    # `featurectl apply` makes the SQL view; the first of the views says which rows there are.
    tags={"computed_from": "views", "views": ",".join(view.name for view in VIEWS)},
)
