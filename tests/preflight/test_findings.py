from pipeline.preflight.findings import BROKEN, LOOK, OK, Finding, in_lines, judged, worse


def test_the_worst_verdict_counts_and_what_is_no_number_is_broken():
    assert worse() == OK
    assert worse(OK, LOOK) == LOOK
    assert worse(LOOK, BROKEN, OK) == BROKEN
    assert [judged(value, 1, 3) for value in (-5, 1, 1.1, 3, 3.1, float("nan"), float("inf"))] == [
        OK, OK, LOOK, LOOK, BROKEN, BROKEN, BROKEN,
    ]  # fmt: skip


def test_advice_stands_under_what_is_not_ok_alone():
    lines = in_lines([Finding("one", OK, "fine", "never said"), Finding("second", BROKEN, "bad", "mend it")])
    assert lines == ["ok      one     fine", "broken  second  bad", "                -> mend it"]
