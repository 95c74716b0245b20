"""Training early-exit models, and recovering quantized ones. Needs torch."""
