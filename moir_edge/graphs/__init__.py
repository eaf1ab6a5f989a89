"""ONNX graphs: names, files, half precision, editing, and sessions that run them with taps."""
