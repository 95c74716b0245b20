"""How sure each exit must be: candidates on a trace, harvest, racing. No torch at import."""
