"""What the readers of all market data files share: formats, delimiters, numbers, times, labels, checks, rejects."""
