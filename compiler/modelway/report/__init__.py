"""Diagnostics for people and machines.

Each module renders one format by a pure function ``(diagnostics, sources, …) -> str``, where
``sources`` maps a path to the bytes of that file and may lack paths. None of them reads the disk,
the clock or the environment, and none is imported before its format is asked for.
"""

# What `--format` takes; `report.<format>.render_<format>` renders it.
FORMATS = ("text", "json", "github", "sarif")
