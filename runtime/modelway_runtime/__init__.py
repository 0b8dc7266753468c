"""The runtime of Modelway: serves models over the Open Inference Protocol.

It shares no code with the compiler; ``docs/contract.md`` says what the two owe each other.
"""

import os

# onnxruntime otherwise writes a device's id to the home folder and looks a collector of Microsoft up, even
# where its own ``disable_telemetry_events`` is called; 1.31 and 1.32 read this once, when they are imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
