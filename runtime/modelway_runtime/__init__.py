"""The runtime of Modelway: serves models over the Open Inference Protocol.

It shares no code with the compiler; ``docs/contract.md`` says what the two owe each other.
"""

__version__ = "0.1.0"
