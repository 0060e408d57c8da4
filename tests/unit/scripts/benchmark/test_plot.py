from __future__ import annotations

from xml.etree import ElementTree as ET

from scripts.benchmark.measures import METRICS
from scripts.benchmark.plot import BAR_WIDTH, svg
from scripts.benchmark.results import Results, Sample

SVG = "{http://www.w3.org/2000/svg}"


def bars(text: str) -> list[float]:
    """The widths of all bars, from a picture that must be well-formed XML."""
    found = ET.fromstring(text).findall(f".//{SVG}g/{SVG}rect")
    return [float(bar.attrib["width"]) for bar in found]


def test_bars_are_as_long_as_their_medians_against_the_most_that_was_measured() -> None:
    samples = [Sample(0, "ingress", "envoy", "requests@50", 50.0)]
    samples += [
        Sample(number, "ingress", "interceptor", "requests@50", value)
        for number, value in enumerate((20, 40, 100))
    ]
    assert bars(svg(Results(samples), ("ingress",))) == [BAR_WIDTH * 0.5, BAR_WIDTH * 0.4]


def test_who_was_not_measured_has_a_name_and_no_bar() -> None:
    samples = [Sample(0, "ingress", "none", "requests@50", 1.0), Sample(0, "ingress", "envoy", "rest", 1.0)]
    text = svg(Results(samples), ("ingress",))
    assert len(bars(text)) == 2
    assert text.count(">none</text>") == text.count(">envoy</text>") == 2


def test_every_panel_lies_inside_the_picture() -> None:
    samples = [
        Sample(0, way, "envoy", metric.key, 1.0) for way in ("ingress", "egress") for metric in METRICS
    ]
    picture = ET.fromstring(svg(Results(samples), ("ingress", "egress")))
    panels = [panel.attrib["transform"] for panel in picture.findall(f"{SVG}g")]
    assert len(panels) == len(set(panels)) == 2 * len(METRICS)
    lowest = max(float(panel.removesuffix(")").rpartition(",")[2]) for panel in panels)
    assert lowest < float(picture.attrib["height"])


def test_nothing_measured_and_nothing_but_zero_are_still_pictures() -> None:
    assert bars(svg(Results(), ("egress",))) == []
    assert bars(svg(Results([Sample(0, "egress", "envoy", "idle", 0.0)]), ("egress",))) == [0.0]
