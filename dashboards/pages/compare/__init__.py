"""The page that compares studies, or seeds of one."""
