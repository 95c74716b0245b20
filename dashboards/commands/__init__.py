"""Commands of presentation, found through the entry points ``exitbits.commands``."""
