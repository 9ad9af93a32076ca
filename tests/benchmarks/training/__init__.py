"""RepVGG and QARepVGG blocks on Fashion-MNIST: trained, fused, quantized, trained for int8."""
