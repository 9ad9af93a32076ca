"""Package data: a real trained checkpoint and real test images (see docs/demo-checkpoint)."""
