"""Feature services: what a model asks for by one name."""

from feast import FeatureService

from feature_repo.comprehensive_features import comprehensive_features_view
from feature_repo.market_features import market_features_view
from feature_repo.sentiment_features import sentiment_features_view
from feature_repo.technical_indicators import technical_indicators_view

technical_indicators_service = FeatureService(
    name="technical_indicators_service",
    features=[technical_indicators_view],
    description="All technical indicators, for trading on closed bars.",
    tags={"category": "trading", "latency": "real_time"},
)

market_analysis_service = FeatureService(
    name="market_analysis_service",
    features=[market_features_view, sentiment_features_view],
    description="What the market does besides its prices: liquidity, flow and mood.",
    tags={"category": "analysis", "latency": "near_real_time"},
)

sentiment_service = FeatureService(
    name="sentiment_service",
    features=[sentiment_features_view],
    description="News, social and market-wide sentiment.",
    tags={"category": "analysis", "latency": "near_real_time"},
)

comprehensive_training_service = FeatureService(
    name="comprehensive_training_service",
    features=[comprehensive_features_view],
    description="All features of a bar, for training sets.",
    tags={"category": "training", "latency": "batch"},
)
