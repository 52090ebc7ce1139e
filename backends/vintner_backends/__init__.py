"""Adapters to runtime libraries, one module each, found by Vintner through the entry points `vintner.backends`.

They know the seam in `vintner.backend` and nothing else of the server. A module named like its library imports that
library absolutely, so `vintner_backends.openvino` holds the adapter and `import openvino` the library.
"""
