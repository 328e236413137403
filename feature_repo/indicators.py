"""One function per feature: its name is the feature, its parameters are its inputs, its docstring the description.

Inputs are columns of market.candles (open, high, low, close, volume, quote_volume, trade_count) or other features of
the view, as float64 arrays of one symbol and timeframe, oldest bar first. A function returns an array of the same
length, NaN where the value is not defined. It must depend on past bars only.
"""

import numpy as np
import talib


def rsi_14(close: np.ndarray) -> np.ndarray:
    """Relative strength index over 14 bars, Wilder's smoothing, 0 to 100."""
    return talib.RSI(close, timeperiod=14)


def macd(close: np.ndarray) -> np.ndarray:
    """MACD line: the 12-bar EMA of the close minus its 26-bar EMA, in units of price."""
    line, _, _ = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=1)
    return line


def ema_20(close: np.ndarray) -> np.ndarray:
    """Exponential moving average of the close over 20 bars, in units of price."""
    return talib.EMA(close, timeperiod=20)


def bollinger_bands_position(close: np.ndarray) -> np.ndarray:
    """Where the close lies between the Bollinger bands (20 bars, 2 population deviations): 0 lower, 1 upper band."""
    mean, deviation = _mean_and_deviation(close, 20)
    lower, width = mean - 2 * deviation, 4 * deviation
    return np.divide(close - lower, width, out=np.full_like(close, np.nan), where=width > 0)


def atr(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> np.ndarray:
    """Average true range over 14 bars, Wilder's smoothing, in units of price."""
    return talib.ATR(high, low, close, timeperiod=14)


def volume_sma_ratio(volume: np.ndarray) -> np.ndarray:
    """Volume divided by its own mean over 20 bars; undefined when nothing was traded in all of them."""
    mean, _ = _mean_and_deviation(volume, 20)
    return np.divide(volume, mean, out=np.full_like(volume, np.nan), where=mean > 0)


def _mean_and_deviation(values: np.ndarray, bars: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the trailing mean and population deviation of each bar's own window.

    TA-Lib's SMA and BBANDS keep running sums, whose rounding depends on where the series begins (1e-9 on real hourly
    bars) and leaves a trace of past volume in a window of none. Each window on its own depends on nothing else.
    """
    mean, deviation = np.full(len(values), np.nan), np.full(len(values), np.nan)
    if len(values) >= bars:
        windows = np.lib.stride_tricks.sliding_window_view(values, bars)
        constant = windows.max(axis=1) == windows.min(axis=1)
        mean[bars - 1 :] = np.where(constant, windows[:, 0], windows.mean(axis=1))
        deviation[bars - 1 :] = np.where(constant, 0.0, windows.std(axis=1))
    return mean, deviation
