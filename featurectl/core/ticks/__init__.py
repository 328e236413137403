"""Read and check files of order books, trades and signals, in the layouts exchanges and data vendors publish.

No database and no printing: the readers give the accepted rows as sorted series and the refused rows as a table.
"""

from __future__ import annotations

from featurectl.core.entity import MARKET
from featurectl.core.ticks.order_book import read_order_book
from featurectl.core.ticks.series import Series, TickFile
from featurectl.core.ticks.signals import read_signals
from featurectl.core.ticks.trades import read_trades

__all__ = ["MARKET", "Series", "TickFile", "read_order_book", "read_signals", "read_trades"]
