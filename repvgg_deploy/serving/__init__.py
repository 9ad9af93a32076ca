"""Engines in production: in your own process, or in a Triton server."""
