"""Post-training quantization to int8, as TensorRT runs it, of ONNX models in fp32."""
