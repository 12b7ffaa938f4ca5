"""Read configs as plain tables (standard library only: the Make graph is drawn from here)."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from pipeline.store.artifacts import CONFIGS, RunFiles
from pipeline.store.errors import UserError, nearest

RUN_STAGES = ["train", "ensemble", "pseudo", "tag", "lb", "full", "ablate", "tune"]
# The keys by which a run names what it builds on.
ROLES = ("run", "pseudo", "teacher", "tags", "init", "chosen_by")


def read_toml(path: Path) -> dict[str, Any]:
    """Read one TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = [f"{p.parent.name}/{p.stem}" for p in CONFIGS.glob("*/*.toml") if p.stem != "competition"]
        wanted = f"{path.parent.name}/{path.stem}"
        raise UserError(f"no config {path}; {nearest(wanted, known)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def merge(base: dict[str, Any], change: dict[str, Any], inner: bool = False) -> dict[str, Any]:
    """Return `base` with `change` laid over it, table by table.

    An empty table inside a section (model.options = {}) takes the place of what was there; an empty section changes
    nothing.
    """
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and (value or not inner):
            value = merge(old, value, True)
        merged[key] = value
    return merged


def read_run(run: str, seen: tuple[str, ...] = ()) -> tuple[dict[str, Any], list[Path]]:
    """Return a run's raw settings with every `base` laid under them, and the files they came from."""
    if run in seen:
        raise UserError(f"configs form a cycle: {' -> '.join((*seen, run))}; break it in one of their `base` keys")
    path = RunFiles(run).config
    settings = read_toml(path)
    if "base" not in settings:
        return settings, [path]
    base = settings.pop("base")
    if not isinstance(base, str):
        raise UserError(f"{path}: base must be the name of another config, not {base!r}")
    under, files = read_run(sibling(run, base), (*seen, run))
    return merge(under, settings), [path, *files]


def sibling(run: str, name: str) -> str:
    """Return the run id of `name` as written in the config of `run`: of the same competition unless it names one."""
    return name if "/" in name else f"{run.split('/')[0]}/{name}"


def parents(run: str, settings: dict[str, Any]) -> list[str]:
    """Return the run ids a run builds on."""
    members = settings.get("members", [])
    variants = settings.get("variants", {})
    every = [settings, *(variants.values() if isinstance(variants, dict) else [])]
    roles = (part.get(role) for part in every if isinstance(part, dict) for role in ROLES)
    named = [*(members if isinstance(members, list) else []), *roles]
    return [sibling(run, name) for name in named if isinstance(name, str)]


def literal(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'" if "\\" in value and "'" not in value else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{k} = {literal(v)}' for k, v in value.items())} }}"
    return str(value)
