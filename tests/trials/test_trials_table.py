"""The table of an ablation."""

import csv

import pytest

from pipeline.scoring.ablation import Effect
from pipeline.trials.table import STOPPED, Row, Winner, lines, notes, ordered, to_csv


def row(name, gain=None, verdict="", note="", seconds=10.0):
    effect = None if gain is None else Effect(gain, 0.01, 20.0, gain - 0.02, gain + 0.02, 0.03)
    return Row(name, 0.9 + (gain or 0), 0.01, 3, 4, 40, seconds, 2**30, effect, 0.04, verdict, note)


ROWS = [row("base"), row("a<b", 0.01, "not shown"), row("failed", note="failed: why, oh"), row("up", 0.05, "helps", seconds=20.0),
        row("down", -0.06, "hurts", STOPPED)]  # fmt: skip
WINNER = Winner("up", Effect(0.03, 0.01, 20.0, 0.01, 0.05, 0.01), 0.05, "on fresh folds (seed 1) and seeds 3 .. 5")


def test_the_base_comes_first_and_what_failed_last():
    assert [r.name for r in ordered(ROWS)] == ["base", "up", "a<b", "down", "failed"]


def test_csv_is_read_back():
    read = {r["variant"]: r for r in csv.DictReader(to_csv(ROWS).splitlines())}
    assert read["base"]["gain"] == read["failed"]["low"] == ""
    assert float(read["up"]["high"]) == pytest.approx(0.07)
    assert read["failed"]["note"] == "failed: why, oh"
    assert read["down"]["memory_mb"] == "1024.0"


def test_the_winner_is_shown_with_what_was_measured_again():
    told = {line.split()[0]: line for line in lines(ROWS, WINNER)}
    assert "+0.0300  [+0.0100, +0.0500]" in told["up*"]
    assert "2.00" in told["up*"]
    assert told["up*"].endswith("; measured again: confirmed")
    assert "again" not in told["down"]
    assert "-0.0600" in told["down"]
    assert "nan" not in "".join(told.values())
    words = " ".join(notes(ROWS, WINNER, 800, 0.011))
    assert "0.0110" in words
    assert "800 steps" in words
    assert "punishes mixup" in words
    assert "one in 1,000" in words
    assert "chosen at +0.0500, and the best of 3 flatters itself" in words
    assert "on fresh folds (seed 1)" in words
    assert "nothing to measure again" in " ".join(notes(ROWS[:1], None, 800, float("nan")))


def test_a_gain_that_does_not_come_again_is_told():
    assert WINNER.effect.confirmed == "confirmed"
    assert Winner("x", Effect(0.01, 0.01, 9.0, -0.01, 0.03, 0.3), 0.05, "").effect.confirmed == "not confirmed"
