"""Models for other programs: a MONAI bundle, a PyTorch graph, an ONNX file, and the card that says what a model is."""
