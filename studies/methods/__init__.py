"""What baselines, MAQEE and recovery do with a study."""
