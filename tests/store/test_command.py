"""What a stage says: one line an event, in the run's log with every detail, on the console in brief."""

import logging
import re
import subprocess
import sys

from house import ROOT

from pipeline.store.command import log_to

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - pipeline\.\w+ - (DEBUG|INFO|WARNING) - .*")
BRIEF = re.compile(r"\d\d:\d\d:\d\d - .*")


def test_an_event_is_one_line(tmp_path):
    """Two stages in one process, each with its own log; what is said between them belongs to neither."""
    log = logging.getLogger("pipeline.a")
    for name in ("one", "two"):
        with log_to(tmp_path / f"{name}/run.log"):
            log.debug("detail of %s", name)
            log.info("end of %s", name)
        log.info("between")
    for name in ("one", "two"):
        lines = (tmp_path / f"{name}/run.log").read_text().splitlines()
        assert [line.rpartition(" - ")[2] for line in lines] == [f"detail of {name}", f"end of {name}"]
        assert all(LINE.fullmatch(line) for line in lines)


SAID = """
import logging
from pipeline.store.command import told
log = logging.getLogger("pipeline.a")
def work():
    log.debug("detail")
    log.info("event")
told(work), told(work)
"""


def test_the_console_is_brief():
    done = subprocess.run([sys.executable, "-c", SAID], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert [line.rpartition(" - ")[2] for line in lines] == ["event", "event"]
    assert all(BRIEF.fullmatch(line) for line in lines)
    assert not done.stdout
