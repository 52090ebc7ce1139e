"""Adapters to runtime libraries, one module each, found by Vintner through the entry points `vintner.backends`.

They know the seam in `vintner.backend` and nothing else of the server. A module named like its library imports that
library absolutely, so `vintner_backends.openvino` holds the adapter and `import openvino` the library.
"""

import os
import sys

# OpenVINO tells its makers that it was imported, if this package is there. It forks a process to do so: out of a server
# with many threads, and with the server's sockets. OpenVINO does without the package, which None says is not there.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# ONNX Runtime and its GenAI write an identifier of the machine into the home directory and send events over HTTPS, with
# threads of their own, unless this says otherwise when they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
