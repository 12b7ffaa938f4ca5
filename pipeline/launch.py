"""Where the models of a run are fitted: one after another, or side by side on this machine (LAUNCHER=local JOBS=2)."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable

from pipeline.store.command import check_environment, setting, word


def slots() -> int:
    """Return how many models are fitted at a time: JOBS, or one a GPU; 1 without a launcher."""
    check_environment()
    if not word("LAUNCHER"):
        return 1
    import torch

    return setting("JOBS", 0) or max(torch.cuda.device_count(), 1)


def side_by_side(work: Callable[[int, int], None], count: int) -> None:
    """Call `work(slot, count)` in `count` processes at once, each with a GPU of its own while there are enough.

    `work` is a function of a module, or a partial of one. Where one fails, the others are stopped and so is this
    process, with its exit status; it has told why.
    """
    import torch

    context, gpus, before = multiprocessing.get_context("spawn"), torch.cuda.device_count(), dict(os.environ)
    processes = []
    for slot in range(count):
        # A child reads its environment before it imports torch.
        os.environ["CUDA_VISIBLE_DEVICES"] = _device(slot, gpus, before.get("CUDA_VISIBLE_DEVICES"))
        processes.append(context.Process(target=_child, args=(work, slot, count)))
        processes[-1].start()
    os.environ.clear()
    os.environ.update(before)
    running = list(processes)
    while running:
        multiprocessing.connection.wait([process.sentinel for process in running])
        failed = [p.exitcode for p in running if p.exitcode]
        running = [p for p in running if p.exitcode is None]
        if failed:
            for process in running:
                process.terminate()
                process.join()
            sys.exit(failed[0] if failed[0] > 0 else 128 - failed[0])


def _device(slot: int, gpus: int, visible: str | None) -> str:
    names = visible.split(",") if visible else [str(gpu) for gpu in range(gpus)]
    return names[slot % gpus] if gpus else ""


def _child(work: Callable[[int, int], None], slot: int, count: int) -> None:
    if sys.platform == "linux":
        # A child must not go on writing after its parent was killed: the next make would write beside it.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    from pipeline.store.command import told

    sys.exit(told(lambda: work(slot, count)))
