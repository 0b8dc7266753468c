"""Triton's Python backend."""

from __future__ import annotations

from typing import Any

import common
import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:  # noqa: ARG002
        self.compute = common.Computed()

    def execute(self, requests: list[Any]) -> list[Any]:
        parts = [triton.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        rows = self.compute(np.concatenate(parts) if len(parts) > 1 else parts[0])
        ends = np.cumsum([len(part) for part in parts])
        answers = np.split(rows, ends[:-1])
        return [triton.InferenceResponse([triton.Tensor("output", answer)]) for answer in answers]
