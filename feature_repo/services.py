"""Feature services: what a model asks for by one name."""

from feast import FeatureService

from feature_repo.technical_indicators import technical_indicators_view

technical_indicators_service = FeatureService(
    name="technical_indicators_service",
    features=[technical_indicators_view],
    description="All technical indicators, for trading on closed bars.",
    tags={"category": "trading", "latency": "real_time"},
)
