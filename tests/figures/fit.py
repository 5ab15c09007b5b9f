"""What every diagram owes a reader with a phone."""

from xml.etree import ElementTree as ET

from distlab.figures import Figure


def check_fits_a_phone(figure: Figure) -> None:
    """At most 440 wide, nothing beyond its edges, and words for who cannot see it."""
    root = ET.fromstring(figure.svg)
    width, height = (float(root.attrib["viewBox"].split()[i]) for i in (2, 3))
    assert width <= 440
    ends = (("x", width), ("x1", width), ("x2", width), ("y", height), ("y1", height), ("y2", height))
    for mark in root:
        for name, most in ends:
            assert -1 <= float(mark.attrib.get(name, 0)) <= most + 1
        if "width" in mark.attrib:
            assert float(mark.attrib["x"]) + float(mark.attrib["width"]) <= width + 1
    assert figure.alt
    assert figure.caption
