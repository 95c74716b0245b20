"""What ``tests/soak.py`` is made of."""
