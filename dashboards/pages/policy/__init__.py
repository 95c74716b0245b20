"""The page of one policy."""
