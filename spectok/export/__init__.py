"""Exports the codec as ONNX graphs, and checks that they compute the same codes and audio."""
