"""Read and check candle files: CSV (plain, gzip, zip) and Parquet, in the layouts exchanges and their mirrors publish.

No database and no printing: ``read_candles`` gives the accepted bars as sorted series and the refused rows as a table.
"""

from __future__ import annotations

from featurectl.core.candles.reader import CandleFile, read_candles
from featurectl.core.candles.series import CandleSeries, Gap
from featurectl.core.tabular.rejects import Rejects, write_rejects

__all__ = ["CandleFile", "CandleSeries", "Gap", "Rejects", "read_candles", "write_rejects"]
