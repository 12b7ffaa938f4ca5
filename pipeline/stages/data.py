"""Raw data: make a built-in competition, or confirm that the user's folder is there."""

from __future__ import annotations

import argparse
import re
import shutil

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.command import main
from pipeline.store.config import Competition, load_competition
from pipeline.store.errors import UserError, resolve
from pipeline.store.files import digest_file, digest_json, lock
from pipeline.store.receipts import fresh, touch, write_receipt


def run(args: argparse.Namespace) -> None:
    """Make `data/<competition>` where it is built in, and write the receipt of its tables."""
    config, files = load_competition(args.competition), CompetitionFiles(args.competition)
    with lock(files.lock, f"competition {files.name}"):
        if config.built_in is not None and not files.data.exists():
            from pipeline.competitions.built_in import MAKERS

            maker = resolve(MAKERS, config.built_in, "built-in competition")
            building = files.data.with_name(f".{files.name}.tmp")
            shutil.rmtree(building, ignore_errors=True)
            maker(building)
            building.rename(files.data)
        if not files.data.is_dir():
            raise UserError(
                f"{files.data} does not exist: unzip the competition there, or link it: ln -s FOLDER {files.data}"
            )
        found = contents(config, files)
        key = digest_json(found)
        if fresh(files.data_receipt, key):
            return touch(files.data_receipt)
        write_receipt(files.data_receipt, stage="data", key=key, outputs=[], contents=found)


def contents(config: Competition, files: CompetitionFiles) -> dict[str, str]:
    """Return the hash of every table that the contract names, and the time of each folder (files added or removed)."""
    others = [section.table for section in (config.group, config.metadata, config.extra) if section is not None]
    names = [config.train, config.test, *others, config.submission.sample]
    tables = [files.data / name for name in names if name is not None]
    folders = {path for path in files.data.iterdir() if path.is_dir()}
    if config.unlabelled and not config.unlabelled.startswith("/"):
        folders |= {path.parent for path in files.data.glob(config.unlabelled)}
    if "*" in config.train:  # class folders
        folders |= {path for path in files.data.glob(config.train.rpartition("/")[0]) if path.is_dir()}
    times = {str(path): str(path.stat().st_mtime_ns) for path in sorted(folders)}
    if config.masks.pattern is not None:
        times[config.masks.pattern] = mask_files(config.masks.pattern, config, files)
    return {str(path): digest_file(path) for path in tables if path.is_file()} | times


def mask_files(pattern: str, config: Competition, files: CompetitionFiles) -> str:
    """Return a hash of names, sizes and times of the mask files: they are read once, so a changed one must be told."""
    glob = re.sub(r"\{\w+\}", "*", pattern.replace("{split}", config.images.train))
    found = ((path, path.stat()) for path in sorted(files.data.glob(glob)))
    return digest_json([[str(path), of.st_size, of.st_mtime_ns] for path, of in found])


if __name__ == "__main__":
    main(run, __doc__, "competition")
