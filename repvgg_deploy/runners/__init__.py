"""Runners: one protocol, one file a runtime."""
