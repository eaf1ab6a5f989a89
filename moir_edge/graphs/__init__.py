"""ONNX graphs: names, files, half precision, and the chain that runs them."""
