"""Online answers: which path a read takes, what it says when one fails, and what is counted of it."""
