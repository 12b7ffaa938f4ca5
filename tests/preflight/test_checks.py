from dataclasses import replace

import pytest

from pipeline.preflight import checks
from pipeline.preflight.findings import OK, Finding


@pytest.mark.parametrize("seconds, ranged, learnt", [(0.001, 72, 200), (0.5, 60, 60), (10.0, 40, 40)])
def test_a_slow_network_takes_fewer_steps_but_not_too_few(seconds, ranged, learnt, material, monkeypatch):
    one, taken = material(), []
    trial, tested = checks.trial, checks.range_test
    monkeypatch.setattr(checks, "trial", lambda material: replace(trial(material, 2), seconds=seconds))
    monkeypatch.setattr(checks, "range_test", lambda material, steps: taken.append(steps) or tested(material, 2))
    monkeypatch.setattr(checks, "overfit", lambda material, steps: taken.append(steps) or Finding("overfit", OK, ""))
    findings, layers = checks.look(one)
    assert taken == [ranged, learnt]
    assert len({finding.name for finding in findings}) == len(findings) == 11
    assert layers
