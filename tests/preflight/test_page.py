import re

from pipeline.preflight.findings import Finding
from pipeline.preflight.page import WIDE, axis, curve, write_page
from pipeline.preflight.signals import Layer


def test_names_are_text_and_nothing_else(tmp_path):
    layer = Layer("<b>", "Conv2d", (3, 4), 1.0, 0.5, None)
    found = Finding("a & b", "look", "<script>", "do & this", [(1e-4, 2.0), (1e-1, 1.0)], ("rate", "loss"))
    write_page(tmp_path / "index.html", "toy/<a>", [found], [layer], "seen.png")
    page = (tmp_path / "index.html").read_text()
    assert "<script>" not in page
    assert "<b></td>" not in page
    assert "&lt;script&gt;" in page
    assert 'src="seen.png"' in page
    assert page.count("<svg") == 1


def test_what_is_well_has_no_advice(tmp_path):
    found = [Finding("overfit", verdict, "32 rows", f"advice if {verdict}") for verdict in ("ok", "look", "broken")]
    write_page(tmp_path / "index.html", "toy/a", found, [], "seen.png")
    page = (tmp_path / "index.html").read_text()
    assert ["advice if " + f.verdict in page for f in found] == [False, True, True]


def test_a_wide_axis_is_logarithmic():
    low, high, place = axis([1e-4, 1.0])
    assert (low, high) == ("0.0001", "1")
    assert place(1e-2) == 0.5
    assert axis([0.0, 10.0])[2](5.0) == 0.5
    assert axis([3.0, 3.0])[2](3.0) == 0.0


def test_a_curve_stays_in_its_frame_and_skips_what_is_not_finite():
    drawn = curve(Finding("a", "ok", "", "", [(0, 1.0), (1, float("nan")), (2, 5.0), (3, 2.0)], ("x", "y")))
    points = re.search(r'points="([^"]*)"', drawn).group(1).split()
    assert len(points) == 3
    assert all(0 <= float(p.split(",")[0]) <= WIDE for p in points)
    assert curve(Finding("a", "ok", "", "", [(0, 1.0), (1, float("inf"))])) == ""
