"""Launchers: how the workers of one ``exitbits launch`` are started and watched."""
