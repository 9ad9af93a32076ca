"""Training for int8: the fused network, trained with the rounding that int8 brings."""
