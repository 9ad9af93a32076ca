"""Structural re-parameterization: the algebra, and the front ends that read and write weights."""
