"""The database of studies: tables, claims, reading and writing. It knows no sampler."""
