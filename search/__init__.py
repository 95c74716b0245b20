"""The domain of exitbits: policies, costs, traces, fronts, and the models they describe.

Importing this package loads nothing heavy; the modules that need torch are imported by name.
"""
