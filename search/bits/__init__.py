"""Which bits each layer gets: sensitivity tables, exact allocation, cheap guesses. No torch."""
