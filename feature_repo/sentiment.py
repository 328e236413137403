"""One function per sentiment feature: its name is the feature, its parameters signals, its docstring the description.

Inputs are signals of market.signals, by name, or other features of the view: for each quarter of an hour the newest
score of the symbol or of the whole market that is still valid, NaN where there is none, as float64 arrays, oldest
first.
"""

import numpy as np


def news_sentiment(news_sentiment: np.ndarray) -> np.ndarray:
    """Sentiment of the news, -1 bad to 1 good; valid for two hours."""
    return news_sentiment


def social_sentiment(social_sentiment: np.ndarray) -> np.ndarray:
    """Sentiment of social media, -1 bad to 1 good; valid for two hours."""
    return social_sentiment


def fear_greed_index(fear_greed_index: np.ndarray) -> np.ndarray:
    """Fear & Greed index of the whole market, 0 fear to 100 greed; valid for 36 hours."""
    return fear_greed_index
