"""The fast engine: transformer blocks on integer codes in compiled kernels."""
