"""What leaves PyTorch: the codec as ONNX graphs, and the check that they are the same codec."""
