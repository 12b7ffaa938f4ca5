"""The plot of an ablation."""

from xml.etree import ElementTree

from pipeline.scoring.ablation import Effect
from pipeline.trials.forest import forest
from pipeline.trials.table import Row, Winner

SVG = "{http://www.w3.org/2000/svg}"


def row(name, gain=None, verdict=""):
    effect = None if gain is None else Effect(gain, 0.01, 20.0, gain - 0.02, gain + 0.02, 0.03)
    return Row(name, 0.9, 0.01, 3, 4, 40, 9.0, 2**30, effect, 0.04, verdict)


ROWS = [row("base"), row("a<b", 0.01, "not shown"), row("up", 0.05, "helps"), row("down", -0.06, "hurts")]
WINNER = Winner("up", Effect(0.03, 0.01, 20.0, 0.01, 0.05, 0.01), 0.05, "on fresh folds")


def test_the_plot_has_a_line_a_variant_and_one_more_for_the_winner():
    root = ElementTree.fromstring(forest(ROWS, WINNER, "toy & co", 0.02))
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == 4
    at = [float(c.get("cx")) for c in circles]
    assert at[0] > at[1] > at[2] > at[3]  # .05, .03 again, .01, -.06
    width = float(root.get("width"))
    for line in root.findall(f"{SVG}line"):
        assert 0 <= float(line.get("x1")) <= float(line.get("x2")) <= width
    words = [text.text for text in root.findall(f"{SVG}text")]
    assert "toy & co" in words
    assert "a<b" in words
    assert ElementTree.fromstring(forest(ROWS[:1], None, "", float("nan"))).findall(f"{SVG}circle") == []
