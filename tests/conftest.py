"""A house of its own for each test."""

import os
import shutil
import subprocess
import sys

# Before OpenMP is loaded: threads of two test processes wait for each other on two cores, and wait busily.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from house import ROOT
from hypothesis import settings

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.files import digest_file

# Half of the usual number: the suite has to stay below twelve minutes on two cores.
settings.register_profile("podium", max_examples=50)
settings.load_profile("podium")


@pytest.fixture
def house(tmp_path, monkeypatch):
    """An empty house to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make(house):
    """`make(...)` in a house of its own with the real Makefile, as a subprocess; returns it completed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, house / name)
    (house / "pipeline").symlink_to(ROOT / "pipeline")
    (house / ".venv/bin").mkdir(parents=True)
    python = house / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (house / ".venv/.ready").touch()

    def run(*arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "COV"))}
        done = subprocess.run(
            ["make", *arguments], cwd=house, env={**clean, **env}, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(autouse=True)
def _one_thread():
    """Where torch is loaded it computes with one thread, and draws from the same stream in every test."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return CompetitionFiles("toy")


@pytest.fixture
def add(files):
    from files import encode  # torch comes with it

    def write(name, content):
        path = files.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encode(content, path.suffix))
        return name, digest_file(path)

    return write
