"""Training, fine-tuning, and training for int8."""
