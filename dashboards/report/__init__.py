"""The front as one page that works from a file."""
