"""int8 without retraining: ranges, rounding, and where the Q/DQ nodes go."""
