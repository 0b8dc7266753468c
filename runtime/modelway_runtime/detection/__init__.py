"""The change-point detector: from a model's metrics to a verdict on the pull request that changed them."""

import os

# The matrices here have a dozen columns: threads for them only spin, and double the CPU time of a verdict.
# Numpy reads this when it is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
