"""What early exit and quantization change against full precision at full depth. No torch."""
