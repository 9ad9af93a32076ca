"""int8 without retraining: ranges, conditioning, rounding, Q/DQ insertion."""
