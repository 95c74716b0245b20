"""Methods that find policies: MAQEE's two problems in turn, and the baselines. No torch."""
