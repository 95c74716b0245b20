"""The page that submits, stops and extends studies."""
