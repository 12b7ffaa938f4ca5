"""The thin shell around every stage: arguments, logging, exit status."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.store.errors import UserError, nearest

# Where to run is environment: words that a variable may be, and the least that a number may be.
WORDS = {"WANDB_MODE": ("online", "offline", "disabled"), "LAUNCHER": ("local",)}
LEAST = {"PODIUM_THREADS": 1, "PODIUM_WORKERS": 0, "PODIUM_CACHE_GB": 0, "PODIUM_CHECKPOINT_SECONDS": 0, "JOBS": 0}


def main(stage: Callable[[argparse.Namespace], None], description: str, *arguments: str) -> None:
    """Run a stage: positional `arguments`; a UserError is one line on stderr and exit status 2."""
    spec = sys.modules["__main__"].__spec__
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name if spec else stage.__module__}", description=description
    )
    for name in arguments:
        parser.add_argument(name.removesuffix("?"), nargs="?" if name.endswith("?") else None)
    parsed = parser.parse_args()

    def work() -> None:
        check_environment()
        stage(parsed)

    sys.exit(told(work))


def told(work: Callable[[], None]) -> int:
    """Do some work, tell a person how it goes, and return the exit status."""
    console = logging.StreamHandler()
    console.setLevel(logging.INFO)
    console.setFormatter(logging.Formatter("%(asctime)s - %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[console])
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command to continue", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Also log to a file, with every detail."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
    package = logging.getLogger("pipeline")
    package.setLevel(logging.DEBUG)
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()


def setting(name: str, default: int, least: int = 0) -> int:
    """Read a whole number from the environment: where to run is environment, never config."""
    value = os.environ.get(name, "")
    if value and (not value.isdigit() or int(value) < least):
        above = " above 0" if least else ""
        raise UserError(f"environment variable {name} must be a whole number{above}, got {value!r}")
    return int(value) if value else default


def word(name: str) -> str:
    """Read one of the words that an environment variable may be, "" where it is not set."""
    value = os.environ.get(name, "")
    if value not in ("", *WORDS[name]):
        raise UserError(f"environment variable {name}={value}; {nearest(value, WORDS[name])}")
    return value


def check_environment() -> None:
    """Refuse what the environment says wrongly before anything is imported or computed."""
    for name in WORDS:
        word(name)
    for name, least in LEAST.items():
        setting(name, least, least)
    if setting("JOBS", 0) > 1 and not word("LAUNCHER"):
        raise UserError(f"JOBS={os.environ['JOBS']} needs LAUNCHER=local")
