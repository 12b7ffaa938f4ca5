"""Write the three-line config of a variation: `base` and the settings that change."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import tomllib
from typing import Any

from pipeline.store.artifacts import RunFiles
from pipeline.store.command import main
from pipeline.store.errors import UserError
from pipeline.store.files import write_text
from pipeline.store.runs import STAGES, check
from pipeline.store.toml import merge, read_run


def parse(change: str) -> tuple[str, str]:
    """Split `key=value`; a value that is not TOML is taken as text."""
    key, equals, value = change.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(f"SET={change!r}: write key=value, for example SET='optim.lr=3e-4'")
    try:
        tomllib.loads(f"x = {value}")
    except tomllib.TOMLDecodeError:
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return key, value


def run(args: argparse.Namespace) -> None:
    """Write `configs/<competition>/<name>.toml`; never overwrite one."""
    base, name, changes = args.base, args.name, os.environ.get("SET", "")
    files = RunFiles(f"{base.split('/')[0]}/{name}")
    if not re.fullmatch(r"[\w.-]+", name) or name == "competition":
        raise UserError(f"NAME={name!r}: use letters, digits, '.', '_' and '-', and not 'competition'")
    if files.config.exists():
        raise UserError(f"{files.config} exists already: choose another NAME")
    settings, _ = read_run(base)
    try:
        pairs = [parse(change) for change in shlex.split(changes.replace('"', '\\"'))]
    except ValueError as error:
        raise UserError(f"SET={changes!r} cannot be divided into key=value: {error}") from error
    if not pairs:
        raise UserError("nothing to change: give SET='optim.lr=3e-4' (several with spaces between)")
    lines = [f"{key} = {value}" for key, value in pairs]
    try:
        changed: dict[str, Any] = tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"SET={changes!r}: a key stands there twice or inside another ({error})") from error
    if settings.get("stage", "train") in STAGES:
        check(base, merge(settings, changed), files.config)
    title = f"# {base.split('/')[1]} with {', '.join(lines)}"
    write_text(files.config, "\n".join([title, f'base = "{base.split("/")[1]}"', *lines, ""]))
    print(f"wrote {files.config}; run it: make train COMP={base.split('/')[0]} NAME={name}")


if __name__ == "__main__":
    main(run, __doc__, "base", "name")
