"""Files: what they may hold, what is refused and how, and that nothing is read wrongly."""

from __future__ import annotations

import builtins
import contextlib
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelway_runtime.detection import openmetrics
from modelway_runtime.detection.evidence import Series
from modelway_runtime.detection.history import HistoryFailed
from modelway_runtime.detection.series_files import FileHistory
from tests.runtime.detection.history.history_data import CANARY, STABLE, T0, pattern, watched
from tests.support.prometheus import series, text

PATTERNS = {"p99": pattern("latency", 0.99), "throughput": pattern("throughput")}
WATCHED = watched(patterns=PATTERNS)
MODEL = {"namespace": "search-prod", "model": "ranker", "version": "1"}


def history(path: Path, content: str | bytes | None = None) -> FileHistory:
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FileHistory(path, WATCHED, 15.0)


def release(of: FileHistory, minutes: int, *names: str) -> list[np.ndarray]:
    load, found = of.release(WATCHED, names, T0, T0 + 60 * minutes)
    return [load.values, *(one.series.values for one in found)]


def refused(path: Path, content: str | bytes | None = None) -> str:
    with pytest.raises(HistoryFailed) as caught:
        release(history(path, content), 10, "p99")
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_csv(tmp_path: Path) -> None:
    rows = [
        f"{T0 + 120},12,0.3",  # out of order
        f"{T0},10,0.1",
        "2026-09-21T14:15:00Z,14,",  # T0 + 60
        f"{T0 + 180},,nan",
        f"{T0 + 301},16,0.5",  # within the step that ends at 360
        f"{T0 + 359},18,0.7",
        f"{T0 + 6000},99,9",
    ]
    load, p99 = release(
        history(tmp_path / "a.csv", "time,load,p99\r\n" + "\r\n".join(rows) + "\r\n\r\n"), 8, "p99"
    )
    nan = math.nan
    np.testing.assert_array_equal(load, [10, 14, 12, nan, nan, nan, 17, nan])
    np.testing.assert_allclose(p99, [0.1, nan, 0.3, nan, nan, nan, 0.6, nan])


def test_a_table_with_revisions(tmp_path: Path) -> None:
    rows = ["time,load,p99,throughput,version,hash"]
    for minute in range(-10, 60):
        rows.append(f"{T0 + 60 * minute},30,0.1,30,1.0,{STABLE}")
        if minute >= 20:
            rows.append(f"{T0 + 60 * minute},10,0.5,10,1.1,{CANARY}")
    of = history(tmp_path / "a.csv", "\n".join(rows))
    load, p99, throughput = release(of, 60, "p99", "throughput")
    np.testing.assert_allclose(load, [30] * 20 + [40] * 40)
    np.testing.assert_allclose(throughput, load)
    np.testing.assert_allclose(p99, [0.1] * 20 + [0.2] * 40)  # by load
    (one,) = of.rollouts(T0, T0 + 3600)
    assert (one.namespace, one.model, one.version) == ("search-prod", "ranker", "1.1")
    assert (one.hash, one.previous_hash, one.started_at.timestamp()) == (CANARY, STABLE, T0 + 1200)
    load_, stable_load, (measured,) = of.canary(WATCHED, ["p99"], T0 + 1200, T0 + 3600, CANARY, STABLE)
    assert isinstance(measured.stable, Series)
    for found, expected in ((load_, 10), (stable_load, 30), (measured.series, 0.5), (measured.stable, 0.1)):
        np.testing.assert_allclose(found.values, np.full(40, expected))


def test_without_revisions_there_are_no_rollouts_and_no_canary(tmp_path: Path) -> None:
    of = history(tmp_path / "a.csv", f"time,load,p99\n{T0},1,2\n")
    assert of.rollouts(T0 - 60, T0 + 60) == ()
    with pytest.raises(HistoryFailed, match="no column `hash`"):
        of.canary(WATCHED, ["p99"], T0, T0 + 60, CANARY, STABLE)
    with pytest.raises(HistoryFailed, match="one model"):
        of.release(watched("other"), [], T0, T0 + 60)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("load,p99\n1,2\n", "no column `time`"),
        ("time,time\n1,2\n", "two columns"),
        ("time,load\n1,2\n", "no column `p99`"),
        ("time,p99\n1,2\n", "no column `load`"),
        ("time,load,p99\n1,2\n", ":2: 2 fields where the header has 3"),
        ("time,load,p99\n1,2,3\n1,x,3\n", ":3: column 'load': 'x' is no number"),
        ("time,load,p99\n1,1_0,3\n", ":2: column 'load': '1_0'"),
        ("time,load,p99\n,2,3\n", ":2: column 'time': ''"),
        ("time,load,p99\nnan,2,3\n", ":2: column 'time': 'nan'"),
        ("time,load,p99\n1790000040000,2,3\n", "no Unix time in seconds"),
        ("time,load,p99\n-1,2,3\n", "no Unix time in seconds"),
        ("time,load,p99\n2026-09-21T14:14:00,2,3\n", "neither Unix seconds nor RFC 3339"),
        ("time,load,p99\n2026-13-45T14:14:00Z,2,3\n", ":2: column 'time': month"),
        ('time,load,p99\n"1,2,3\n', "unexpected end of data"),
        (b"time,load,p99\n\xff,1,2\n", "not UTF-8"),
    ],
)
def test_csv_that_is_wrong(tmp_path: Path, content: str | bytes, what: str) -> None:
    assert what in refused(tmp_path / "a.csv", content)


def test_no_file(tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet", "a.om"):
        assert "No such file" in refused(tmp_path / name)


@pytest.mark.parametrize("header", ["time,load,p99", "time,load,p99\n"])
def test_a_header_alone_is_no_data(tmp_path: Path, header: str) -> None:
    load, p99 = release(history(tmp_path / "a.csv", header), 3, "p99")
    assert np.isnan([load, p99]).all()


def parquet(path: Path, **columns: Any) -> FileHistory:
    pq.write_table(pa.table(columns), path)
    return history(path)


@pytest.mark.parametrize(
    "kind",
    [pa.float64(), pa.int64(), pa.timestamp("ms", "UTC"), pa.timestamp("ns", "Asia/Tokyo"), pa.string()],
)
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    seconds = [T0 + 60, T0]
    times: pa.Array
    if pa.types.is_timestamp(kind):
        unit = {"ms": 1000, "ns": 10**9}[kind.unit]
        times = pa.array([int(t) * unit for t in seconds], kind)
    elif pa.types.is_string(kind):
        times = pa.array(["2026-09-21T14:15:00+00:00", "2026-09-21T16:14:00+02:00"])
    else:
        times = pa.array(seconds).cast(kind)
    of = parquet(tmp_path / "a.parquet", time=times, load=[2, 1], p99=[None, 0.5], version=["2", "1"])
    load, p99 = release(of, 3, "p99")
    np.testing.assert_array_equal(load, [1, 2, math.nan])
    np.testing.assert_array_equal(p99, [0.5, math.nan, math.nan])
    assert [one.version for one in of.rollouts(T0 + 60, T0 + 120)] == ["2"]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"time": [None, T0], "load": [1.0, 2.0]}, "row 1 has no Unix time"),
        ({"time": [T0 * 1000], "load": [1.0]}, "row 1 has no Unix time"),
        ({"time": pa.array([0], pa.timestamp("s")), "load": [1.0]}, "timestamps with a zone"),
        ({"time": ["yesterday"], "load": [1.0]}, ":1: column 'time': 'yesterday'"),
        ({"time": [T0], "load": ["many"]}, "wanted are numbers"),
        ({"time": [T0], "load": [1.0], "hash": [1]}, "column 'hash' must be text"),
        ({"load": [1.0]}, "no column `time`"),
    ],
)
def test_parquet_that_is_wrong(tmp_path: Path, columns: dict[str, Any], what: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert what in refused(tmp_path / "a.parquet")


def test_parquet_that_is_none(tmp_path: Path) -> None:
    good = tmp_path / "good.parquet"
    parquet(good, time=[T0] * 100, load=[1.0] * 100, p99=[1.0] * 100)
    data = good.read_bytes()
    for content in (b"", b"PAR1", data[:-10], data[:20] + b"\x00" * 40 + data[60:]):
        assert "not Parquet" in refused(tmp_path / "a.parquet", content)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "a.parquet", time=[T0], load=[1.0], p99=[1.0])
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    words = "Parquet needs pyarrow: pip install 'modelway[detect,parquet]', or give a CSV."
    assert words in refused(tmp_path / "a.parquet")


def test_the_module_does_not_need_pyarrow() -> None:
    source = Path(sys.modules[FileHistory.__module__].__file__ or "").read_text()
    assert "pyarrow" not in source


def om(tmp_path: Path, *points: tuple[float, float]) -> FileHistory:
    labels = {**MODEL, "method": "infer", "code": "200"}
    return history(tmp_path / "a.om", text(series("inference_requests_total", labels, points)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_openmetrics_without_a_number(tmp_path: Path, value: float) -> None:
    (load,) = release(om(tmp_path, *((T0 + 7 + 15 * i, value) for i in range(40))), 10)
    assert np.isnan(load).all()


def test_openmetrics_one_sample_and_a_constant(tmp_path: Path) -> None:
    (load,) = release(om(tmp_path, (T0 + 7, 5.0)), 10)
    assert np.isnan(load).all()
    (load,) = release(om(tmp_path, *((T0 - 53 + 15 * i, 5.0) for i in range(40))), 8)
    assert (load == 0).all()


def test_openmetrics_reset_and_gap(tmp_path: Path) -> None:
    points = [(T0 - 53 + 15 * i, 30.0 * (i if i < 14 else i - 14)) for i in range(60) if not 20 <= i < 36]
    (load,) = release(om(tmp_path, *points), 14)
    assert np.isnan(load[5:8]).all()
    assert np.nanmax(load) == pytest.approx(2.0)
    assert np.nanmin(load[:4]) > 1.3  # one of four increases was lost in the reset


def test_openmetrics_in_any_order_and_twice(tmp_path: Path) -> None:
    labels = {**MODEL, "method": "infer", "code": "200"}
    lines = series(
        "inference_requests_total", labels, [(T0 - 53 + 15 * i, 900 + 30.0 * i) for i in range(60)]
    )
    (load,) = release(history(tmp_path / "a.om", text(lines)), 10)
    turned = dict(reversed(labels.items()))
    more = series("inference_requests_total", turned, [(T0 - 53 + 15 * 7, 1110.0)])  # the same series
    (again,) = release(history(tmp_path / "b.om", text(more, lines[::-1])), 10)
    np.testing.assert_array_equal(load, again)
    np.testing.assert_allclose(load, 2.0)


def test_openmetrics_with_all_that_the_format_has(tmp_path: Path) -> None:
    content = (
        "# HELP inference_requests_total Requests.\n# TYPE inference_requests_total counter\n"
        "# UNIT x seconds\nother_metric 1 1.0\n"
        f'inference_requests_total{{namespace="search-prod",model="ranker",code="200"}} 900 {T0 - 53}\n'
        f'inference_requests_total{{namespace="search-prod",model="ranker",code="200"}} 930 {T0 - 38!r}\n'
        f'inference_requests_total{{namespace="search-prod",model="ranker",code="200",}} 960.0 {T0 - 23}'
        f' # {{trace_id="a b # c"}} 0.67 {T0}\n'
        f'inference_requests_total{{namespace="search-prod",model="ranker",code="200"}} 99e1 {T0 - 8} \n'
        "# EOF\n"
    )
    (load,) = release(history(tmp_path / "a.om", content), 1)
    np.testing.assert_allclose(load, 2.0)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "does not end in `# EOF`"),
        (b"up 1 1.0\n", "does not end in `# EOF` (1 lines)"),
        (b"up 1 1.0\n# EOF\nup 2 2.0\n", ":3: there is text after"),
        (b"up 1\n# EOF\n", ":1: the sample has no timestamp"),
        (b'up{a="1 2"} 1\n# EOF\n', ":1: the sample has no timestamp"),
        (b'up{a="1"b} 1 1\n# EOF\n', "is no sample"),
        (b"up 1 1 1\n# EOF\n", "is no sample"),
        (b"up one 1\n# EOF\n", "'one' is no number"),
        (b"up 1 one\n# EOF\n", "'one' is no number"),
        (b"up 1 1790000040000\n# EOF\n", "no Unix time in seconds"),
        (b"up 1 nan\n# EOF\n", "no Unix time in seconds"),
        (b"up 1 5\nup 1 5\nup 2 5\n# EOF\n", ":3: another value of up for the time of line 2"),
        (b'up{a="1",a="2"} 1 1\n# EOF\n', "a label is there twice"),
        (b'up{a="\xff"} 1 1\n# EOF\n', "a label is not UTF-8"),
        (b"# a remark\n# EOF\n", ":1: '# a remark' is neither"),
        (b"\x00\x01\x02", "is no sample"),
        (b"PAR1\x15\x04", "is no sample"),
    ],
)
def test_openmetrics_that_is_wrong(tmp_path: Path, content: bytes, what: str) -> None:
    assert what in refused(tmp_path / "a.om", content)


def test_hostile_lines_of_openmetrics_are_read_once(tmp_path: Path) -> None:
    """Each of the longest lines that are read; a cost that is the square of the length takes minutes."""
    units = (
        b"a",
        b":",
        b'a="',
        b'a="b"',
        b'a="b",',
        b"\\\\",
        b'\\"',
        b'"',
        b"{",
        b"}",
        b" ",
        b" 1",
        b" #",
        b" # ",
        b",",
    )
    starts = (b"", b"up", b"up{", b'up{a="', b"up ", b"up 1 ", b"up 1 1 # ", b"#")
    began = time.process_time()
    for start, unit in itertools.product(starts, units):
        size = (openmetrics.MAX_LINE_BYTES - len(start) - 3) // len(unit)
        path = tmp_path / "hostile.om"
        path.write_bytes(start + unit * size + b"\n# EOF\n")
        with contextlib.suppress(HistoryFailed):
            openmetrics.read(path, ["up"])
    assert time.process_time() - began < 20


def test_a_line_of_openmetrics_that_is_too_long(tmp_path: Path) -> None:
    line = b'up{a="' + b"\\\\" * openmetrics.MAX_LINE_BYTES + b'"} 1 1'
    assert f":1: the line has {len(line)} bytes" in refused(tmp_path / "a.om", line + b"\n# EOF\n")


def test_a_quarter_of_a_million_samples_of_openmetrics(tmp_path: Path) -> None:
    with (tmp_path / "a.om").open("w") as file:
        for pod in range(5):
            head = (
                f'inference_requests_total{{namespace="search-prod",model="ranker",code="200",pod="p{pod}"}}'
            )
            file.write("".join(f"{head} {30 * i}.0 {T0 + 7 + 15 * i}\n" for i in range(50_000)))
        file.write("# EOF\n")
    began = time.process_time()  # others use the machine too
    (load,) = release(FileHistory(tmp_path / "a.om", WATCHED, 15.0), 12_000)
    assert time.process_time() - began < 4  # it takes half a second
    np.testing.assert_allclose(load[2:], 10.0)


def test_a_million_points_of_csv(tmp_path: Path) -> None:
    rows = "".join(f"{T0 + 60 * i:.0f},{i % 7},0.{i % 10}\n" for i in range(334_000))
    began = time.process_time()
    load, p99 = release(history(tmp_path / "a.csv", "time,load,p99\n" + rows), 334_000, "p99")
    assert time.process_time() - began < 8  # it takes one or two
    np.testing.assert_array_equal(load, np.arange(334_000) % 7)
    np.testing.assert_allclose(p99, np.arange(334_000) % 10 / 10)
