"""Any bytes give series or HistoryFailed; what is written is read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelway_runtime.detection.history import HistoryFailed
from modelway_runtime.detection.quantiles import histogram_quantile
from modelway_runtime.detection.series_files import FileHistory
from tests.runtime.detection.history.history_data import CANARY, STABLE, pattern, watched

WATCHED = watched(
    patterns={"p99": pattern("latency", 0.99), "scores": pattern("output_value"), "m": pattern("memory")}
)
CSV = st.lists(st.sampled_from([
    "time", "load", "p99", "scores", "m", "hash", "version", ",", "\n", '"', "0", "60", "1e308", "-1e308", "nan",
    "2026-09-21T14:15:00Z", "a", " ", "\x00", "\r", "é",
])).map("".join)  # fmt: skip
LINES = st.lists(
    st.tuples(
        st.sampled_from([
            "inference_requests_total", "inference_request_duration_seconds_bucket", "inference_output_value_bucket",
            "inference_output_class_total", "container_memory_working_set_bytes", "up", "model_ready",
        ]),
        st.sampled_from(["", 'le="1.0",', 'le="+Inf",', 'le="x",', 'class="1",', 'class="a",', 'pod="ranker-a-b",']),
        st.sampled_from([STABLE, CANARY, ""]),
        st.floats().map(repr),
        st.floats(0, 1200).map(repr),
        st.sampled_from(["", "\n", " 1", "#", "\r"]),
    ).map(lambda parts: (
        f'{parts[0]}{{{parts[1]}namespace="search-prod",model="ranker",job="ranker",container="server",'
        f'rollouts_pod_template_hash="{parts[2]}"}} {parts[3]} {parts[4]}{parts[5] if parts[5] == " 1" else ""}\n'
    )),
    max_size=40,
).map(lambda lines: "".join(lines) + "# EOF\n")  # fmt: skip


def read(suffix: str, content: bytes) -> None:
    """All that a history is asked; the grid is small."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        history = FileHistory(path, WATCHED, 15.0)
        names = list(WATCHED.patterns)
        for ask in (
            lambda: history.release(WATCHED, names, 0.0, 1200.0),
            lambda: history.canary(WATCHED, names, 0.0, 1200.0, CANARY, STABLE),
            lambda: history.rollouts(600.0, 1200.0),
        ):
            try:
                found = ask()
            except HistoryFailed as error:
                assert str(path) in str(error)  # noqa: PT017
            else:
                for one in (value for value in found if hasattr(value, "values")):
                    assert len(one.values) == 20
                    assert not np.isinf(one.values).any()


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(), CSV.map(str.encode), CSV.map(lambda rest: f"time,load,p99,scores,m\n{rest}".encode())
    )
)
@example(b"time,load,p99,scores,m\n60,1e308,1e308,1e308,1\n60,1e308,1e308,1e308,1\n")
@example(b"time,load,p99,scores,m\n0,1,1,1,1\n1e10,1,1,1,1\n")
def test_any_csv(content: bytes) -> None:
    read(".csv", content)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(), LINES.map(str.encode)))
def test_any_openmetrics(content: bytes) -> None:
    read(".om", content)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(), st.binary().map(lambda middle: b"PAR1" + middle + b"PAR1")))
def test_any_parquet(content: bytes) -> None:
    read(".parquet", content)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(observed: list[float], quantile: float) -> None:
    bounds = [0.5, 1.0, 2.0, 5.0, 10.0]
    buckets = {
        bound: np.array([float(sum(x <= bound for x in observed))]) for bound in [*bounds, float("inf")]
    }
    (found,) = histogram_quantile(quantile, buckets, 1)
    exact = sorted(observed)[max(0, int(np.ceil(quantile * len(observed) - 1e-9)) - 1)]
    upper = next(bound for bound in bounds if exact <= bound)
    lower = max([0.0, *(bound for bound in bounds if bound < exact)])
    assert lower - 1e-9 <= found <= upper + 1e-9
