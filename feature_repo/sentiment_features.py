"""Sentiment of a symbol, computed by `featurectl compute` from market.signals."""

from datetime import timedelta

from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64

from feature_repo.entities import symbol

# What `featurectl check` expects besides ranges: that half of the rows have a score, and that none stays the same for
# more than a day, or a week, of quarters of an hour.
HOURLY = {"max_null_share": "0.5", "check_max_null_share": "warn", "max_stuck": "96"}
DAILY = {"max_null_share": "0.5", "check_max_null_share": "warn", "max_stuck": "672"}

sentiment_features_source = PostgreSQLSource(
    name="sentiment_features",
    table="features.sentiment_features",
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row every 15 minutes while a score is valid.",
)

sentiment_features_view = FeatureView(
    name="sentiment_features_view",
    entities=[symbol],
    # Says whether the pipeline is alive; whether a score still means something, its validity says.
    ttl=timedelta(minutes=30),
    schema=[
        Field(name="news_sentiment", dtype=Float64, tags={"validity": "2h", "min": "-1", "max": "1", **HOURLY}),
        Field(name="social_sentiment", dtype=Float64, tags={"validity": "2h", "min": "-1", "max": "1", **HOURLY}),
        Field(name="fear_greed_index", dtype=Float64, tags={"validity": "36h", "min": "0", "max": "100", **DAILY}),
    ],
    source=sentiment_features_source,
    online=True,
    description="The newest valid score of each kind, the whole market's given to every symbol.",
    # Each field is the function of its name in sentiment.py, applied to the newest valid scores.
    tags={"computed_from": "signals", "functions": "sentiment.py"},
)
