"""Honest benchmarking: interleaved, with the spread and the environment."""
