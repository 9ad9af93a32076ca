"""A Triton model repository from what the workspace holds."""
