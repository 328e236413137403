"""What features belong to: a symbol, in a timeframe, at an event time."""

from feast import Entity, ValueType

symbol = Entity(
    name="symbol",
    join_keys=["symbol"],
    value_type=ValueType.STRING,
    description="A trading pair without separators, as exchanges name it: BTCUSDT.",
)

timeframe = Entity(
    name="timeframe",
    join_keys=["timeframe"],
    value_type=ValueType.STRING,
    description="The length of a bar: 1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 3d 1w.",
)

timestamp = Entity(
    name="timestamp",
    join_keys=["event_timestamp"],
    value_type=ValueType.UNIX_TIMESTAMP,
    description="When a value became knowable, the close of its bar. Names the event-time column; keys no view.",
)
