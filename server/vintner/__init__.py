"""Vintner: a KServe v2 model server for OpenVINO and ONNX."""

__version__ = "0.1.0"
