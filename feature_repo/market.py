"""One function per market feature: its name is the feature, its parameters the inputs, its docstring the description.

Inputs are columns of market.order_book (bid, bid_size, ask, ask_size) or of market.trades (price, size, and side: 1 if
the buyer was the aggressor, -1 if the seller was), or other features made of the same table, as float64 arrays of one
symbol, oldest first. A function returns one number for each book update or trade, NaN where there is none; the field's
tag `aggregate` says what is taken of them over the timeframe. The number must depend on that update or trade alone: a
function is given them in pieces, which begin and end anywhere.
"""

import numpy as np


def bid_ask_spread(bid: np.ndarray, ask: np.ndarray) -> np.ndarray:
    """Mean relative spread over the timeframe: (ask - bid) / mid."""
    return (ask - bid) / ((ask + bid) / 2)


def order_book_imbalance(bid_size: np.ndarray, ask_size: np.ndarray) -> np.ndarray:
    """Mean imbalance of the sizes over the timeframe, -1 all ask to 1 all bid."""
    return (bid_size - ask_size) / (bid_size + ask_size)


def trade_size_avg(size: np.ndarray) -> np.ndarray:
    """Mean size of a trade over the timeframe, in units of the base currency."""
    return size
