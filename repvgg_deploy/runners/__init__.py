"""Runners: one protocol, one file a runtime; those of engines in a room of their own."""
