"""Networks of operators: static ones, elastic ones, and the same as ONNX graphs."""
