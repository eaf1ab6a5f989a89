"""Runs `vision` and `decoder` of a bundle by OpenVINO on the CPU; embedding and router stay with ONNX Runtime."""
