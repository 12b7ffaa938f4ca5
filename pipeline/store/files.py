"""Atomic files: write to a temporary name, fsync, rename; a killed writer leaves nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.store.errors import UserError

Array: TypeAlias = NDArray[Any]


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, then fsync and rename it; a full disk is the user's one-line error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"disk full while writing {path}: free some space and run the same command again") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        handle.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN becomes null, so that every reader can parse it."""
    write_text(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def write_npy(path: Path, array: Array) -> None:
    """Write an array as `.npy` (byte-deterministic)."""
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, np.ascontiguousarray(array), allow_pickle=False)


def read_npy(path: Path) -> Array:
    """Read an array, memory-mapped."""
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged one is the user's error, by name."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run the stage again") from error


def number(value: float | None) -> float:
    """Return a number read from JSON, where null stands for NaN."""
    return float("nan") if value is None else value


def digest(*parts: bytes | str) -> str:
    """Return a short content hash (blake2b, 32 hex digits) of the parts, unambiguous about their borders."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def digest_json(value: Any) -> str:
    """Return the content hash of a JSON value, whatever the order of its keys."""
    return digest(json.dumps(_plain(value), sort_keys=True))


def digest_bytes(data: bytes) -> str:
    """Return the hash that `digest_file` gives a file of these bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_file(path: Path) -> str:
    """Return the content hash of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def require_space(folder: Path, need: int, what: str) -> None:
    """Refuse before a stage starts what the disk cannot hold (`need` in bytes)."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(f"{what} needs {need / 1e6:.0f} MB in {folder}, {free / 1e6:.0f} MB are free: free some space")


@contextlib.contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock; a second process says that it waits, then waits. A dead holder frees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle: IO[str]
    with open(path, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            print(f"{what} is in use by process {handle.read().strip() or '?'}: waiting", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
