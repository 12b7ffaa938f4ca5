"""The images of a run's rows, and what becomes of those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pipeline.images.cache import Rows
from pipeline.images.ragged import Ragged
from pipeline.store.errors import UserError
from pipeline.store.files import Array

if TYPE_CHECKING:
    from pipeline.training.job import Job

Pictures = TypeVar("Pictures", Rows, Ragged)


def labelled_images(job: Job) -> tuple[Rows, dict[int, str]]:
    """Return the images of the scored rows, then of the extra ones, and what is wrong with those allowed to be bad."""
    return labelled(job, job.images)


def labelled(job: Job, read: Callable[[Array], tuple[Pictures, dict[int, str]]]) -> tuple[Pictures, dict[int, str]]:
    """Return what `read` gives of the scored rows, then of the extra ones, and what is wrong with bad ones."""
    table = job.table
    images, bad = read(table.scored)
    if len(table.extra):
        more, worse = read(table.extra)
        bad |= {len(images) + row: why for row, why in worse.items()}
        images = images.followed_by(more)
    if bad and job.config.on_bad_image == "error":
        row, why = next(iter(bad.items()))
        raise UserError(
            f"{why} (id {str(table.ids[table.labelled][row])!r}; {len(bad)} in all): mend it, drop its row, "
            f'or set on_bad_image = "skip-train"'
        )
    return images, bad


def every_image(job: Job, rows: Array, who: str = "test row") -> Rows:
    """Return the images of rows that all need a prediction: an unreadable one is refused."""
    return readable(job.images, rows, who)


def readable(read: Callable[[Array], tuple[Pictures, dict[int, str]]], rows: Array, who: str = "test row") -> Pictures:
    """Return the images that `read` gives of rows that all need one."""
    images, unreadable = read(rows)
    if unreadable:
        raise UserError(f"{next(iter(unreadable.values()))}: every {who} needs a prediction; mend the file")
    return images
