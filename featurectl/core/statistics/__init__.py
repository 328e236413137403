"""What the history of features holds: figures of it, profiles that last, and how two windows of it differ."""
