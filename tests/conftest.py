"""The engine is told that it may tell nobody, before any test can import it.

Property tests draw the same examples everywhere, so that a change is judged by what it changes.

``HYPOTHESIS_PROFILE=random`` draws others each time and remembers those that failed: for a schedule, and for
whoever looks for faults (`make search`).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

import modelway_runtime  # noqa: F401  # its entry says so to this process and all that it starts

# How long an example takes on a busy machine is no property.
timeless = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, database=None, **timeless)
settings.register_profile("random", derandomize=False, print_blob=True, **timeless)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
