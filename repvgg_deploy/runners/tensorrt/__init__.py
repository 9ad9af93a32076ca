"""Engines of TensorRT and TensorRT-RTX on pycuda, without torch."""
