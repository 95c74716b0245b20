"""Orchestration: configuration, the shared store, samplers, workers, and the command."""
