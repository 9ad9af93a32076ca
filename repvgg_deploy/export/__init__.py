"""Network -> ONNX."""
