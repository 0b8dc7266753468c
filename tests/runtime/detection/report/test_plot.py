from __future__ import annotations

import io
import re
import threading
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.report import plot as pictures
from tests.runtime.detection.report.examples import RELEASED, canary, plot, regressed

SVG = "{http://www.w3.org/2000/svg}"


def cut(full: Plot, count: int) -> Plot:
    return replace(
        full, **{name: getattr(full, name)[:count] for name in ("times", "values", "expected", "low", "high")}
    )


def big(count: int) -> Plot:
    times = np.float64(RELEASED.timestamp() - count * 30) + np.arange(count, dtype=np.float64) * 60.0
    values = 1 + (np.arange(count) * 7919 % 97) / 100
    return replace(plot("big"), times=times, values=values, expected=values, low=values, high=values)


NOTHING = np.full(420, np.nan)
PLOTS = {
    "usual": plot("latency-p99"),
    "no values": plot("m", values=NOTHING),
    "nothing at all": plot("m", values=NOTHING, expected=NOTHING, low=NOTHING, high=NOTHING),
    "one point": cut(plot("m"), 1),
    "no point": cut(plot("m"), 0),
    "constant": plot("m", values=np.full(420, 5.0), expected=np.full(420, 5.0)),
    "zero": plot("m", "ratio", 0.0),
    "negative": plot("m", "1", -3.0),
    "huge": plot("m", "1", 1e200),
    "tiny": plot("m", "1", 1e-200),
    "infinite": plot("m", values=np.full(420, np.inf)),
    "no release": plot("m", released_at=None, change_points=(), others_released_at=()),
    "stable": plot("m", stable=plot("m", up=0.0).values),
    "lonely points": plot("m", values=np.where(np.arange(420) % 50 == 0, 1.0, np.nan)),
    "a hundred thousand points": big(100_000),
    "mathematics": plot("$x^2$ \\frac{ $"),
    "markup": plot("]]><script>&amp;\"'-->"),
    "no glyph": plot("\U0001f525\u202e日本"),
    "legend": plot("_nolegend_"),
}


@pytest.mark.parametrize("case", PLOTS)
def test_pictures_open(case: str) -> None:
    made = pictures.svg((PLOTS[case],))
    root = ET.fromstring(made)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert [root[0].tag, root[1].tag] == [f"{SVG}title", f"{SVG}desc"]
    assert root.get("aria-labelledby") == f"{root[0].get('id')} {root[1].get('id')}"
    assert not [
        element
        for element in root.iter()
        if element.tag in (f"{SVG}script", f"{SVG}image", f"{SVG}foreignObject")
    ]
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.endswith("href") or value.startswith("#")
            assert not re.search(r"url\((?!#)", value)
    with Image.open(io.BytesIO(pictures.png((PLOTS[case],)))) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width == round(9.6 * 130)


def test_references_within_a_picture_lead_somewhere() -> None:
    made = pictures.svg(regressed()[1], regressed()[0], prefix="one")
    ids = re.findall(r'\bid="([^"]*)"', made)
    assert len(ids) == len(set(ids))
    assert all(one.startswith("one-") for one in ids)
    named = re.findall(r'(?:url\(#|href="#)([^")]*)', made)
    assert named
    assert set(named) <= set(ids)


def test_the_same_plots_give_the_same_bytes_in_all_threads() -> None:
    verdict, plots = regressed()
    made: list[tuple[str, bytes]] = []
    threads = [
        threading.Thread(
            target=lambda: made.append((pictures.svg(plots, verdict), pictures.png(plots, verdict)))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 3
    assert len(set(made)) == 1
    assert not re.search(r"\d\d-\d\dT|dc:date|Matplotlib v|DOCTYPE", made[0][0])


def test_nobodys_style_changes_a_picture() -> None:
    import matplotlib as mpl

    usual = pictures.svg((plot("m"),))
    with mpl.rc_context(
        {"font.size": 30, "axes.facecolor": "red", "text.usetex": False, "timezone": "Asia/Tokyo"}
    ):
        assert pictures.svg((plot("m"),)) == usual
        assert mpl.rcParams["font.size"] == 30


def test_what_is_in_a_picture() -> None:
    verdict, plots = regressed()
    made = pictures.svg(plots[:1], verdict)
    for label in (
        "usual range",
        "expected",
        "measured",
        "change point",
        "other release",
        "release",
        "compared levels",
        "latency-p99",
    ):
        assert f">{label}<" in made
    for part in ("band-0", "values-0", "release0-0", "other-release0-0", "change-point0-0"):
        assert f'id="plot-{part}"' in made
    assert pictures.COLOURS["level"] in made
    assert " ms<" in made
    assert "10:00" in made
    assert "stable version" not in made
    assert ">stable version<" in pictures.svg(canary()[1], canary()[0])
    assert pictures.COLOURS["level"] not in pictures.svg(plots[:1])


def test_a_release_outside_the_picture_is_not_drawn() -> None:
    made = pictures.svg((plot("m", released_at=0.0, others_released_at=(1e10,), change_points=()),))
    assert ">release<" not in made
    assert ">other release<" not in made


def test_a_panel_for_each_plot() -> None:
    root = ET.fromstring(pictures.svg((plot("a"), plot("b"), plot("c"))))
    one = ET.fromstring(pictures.svg((plot("a"),)))
    assert float(root.get("viewBox", "").split()[3]) == pytest.approx(
        3 * float(one.get("viewBox", "").split()[3])
    )
    assert ET.fromstring(pictures.svg(())).tag == f"{SVG}svg"
    assert pictures.png(()).startswith(b"\x89PNG")


def test_the_colours_are_told_apart() -> None:
    assert len(set(pictures.COLOURS.values())) == len(pictures.COLOURS)
