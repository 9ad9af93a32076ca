"""Checkpoint files in: an untrusted file becomes a checked state dict."""
