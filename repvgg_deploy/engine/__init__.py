"""ONNX -> TensorRT or TensorRT-RTX engine, strongly typed."""
