"""The page of one study: its front, linked with its table."""
