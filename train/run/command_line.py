"""What every command does around its work; and a configuration from a preset, a YAML file and the command line."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union

from faceclip.cli.options import print_anything

from ..data.texts import parse_yaml
from .config import ConfigError, RunConfig

PRESETS = Path(__file__).parents[1] / "configs"
Config = TypeVar("Config", bound=RunConfig)


def run_command(work: Callable[[], int | None], *expected: type[Exception], level: int = logging.INFO) -> int:
    """Do a command's work, parsing included.

    Return its exit code: that of `work`, or 1 for an error that it explains.

    Such an error is a ValueError or one of `expected`. Its message goes
    to stderr; any other error keeps its traceback.
    """
    print_anything()
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    try:
        return work() or 0
    except (ValueError, *expected) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


def parse(kind: type[Config], argv: Sequence[str] | None = None) -> Config:
    """The configuration of a command line: `[--config PRESET_OR_FILE] [--field value ...]`.

    Raises ConfigError for an unknown preset, an unknown key and values
    out of range; ends the process for unknown flags.
    """
    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    preset, arguments = _take_preset(arguments)
    values = read_yaml(preset, kind) if preset else {}
    presets = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
    about = inspect.cleandoc(kind.__doc__ or "")
    description = f"{about}\n\n--config takes the path of a YAML file or a preset ({presets}); flags win over it."
    return tyro.cli(_with_defaults(kind, values), args=arguments, prog=f"python -m {kind.command}", description=description)


def read_yaml(name: str, kind: type[Config]) -> dict[str, Any]:
    """The fields that a preset or YAML file sets, converted to their types; paths may be relative to it.

    Raises ConfigError.
    """
    path = PRESETS / f"{name}.yaml" if "/" not in name and not name.endswith((".yaml", ".yml")) else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
        raise ConfigError(f"There is no configuration {name!r}. Give the path of a YAML file, or one of the presets: {known}.")
    try:
        content = parse_yaml(path.read_bytes()) or {}
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        advice = " Within double quotes a backslash is special: write paths without quotes." if "escape" in reason else ""
        raise ConfigError(f"{path} is not YAML that can be read ({reason}).{advice}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} is not a configuration: it holds a {type(content).__name__}, expected `key: value` lines.")
    hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if typing.get_origin(hint) is not ClassVar}
    return {str(key): _convert(_known_key(str(key), hints, path), value, hints[str(key)], path) for key, value in content.items()}


def write_yaml(config: RunConfig, path: Path) -> None:
    """Write every field, so that `--config path` gives the same configuration again."""
    import yaml

    path.write_text(yaml.safe_dump(as_plain(config), sort_keys=False))


def as_plain(config: RunConfig) -> dict[str, Any]:
    """Every field as YAML and JSON know it: paths as text, tuples as lists, fields without a value left out."""
    plain = {}
    for name, value in dataclasses.asdict(config).items():
        if value is not None:
            plain[name] = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return plain


def _take_preset(arguments: list[str]) -> tuple[str, list[str]]:
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return argument.split("=", 1)[1], arguments[:i] + arguments[i + 1 :]
        if argument == "--config":
            if i + 1 == len(arguments):
                raise ConfigError("--config needs the name of a preset or the path of a YAML file after it.")
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
    return "", arguments


def _with_defaults(kind: type[Config], values: Mapping[str, Any]) -> Any:
    """`kind` with other defaults, which the command line may then still override."""
    import tyro

    described = [
        (field.name, typing.get_type_hints(kind)[field.name], dataclasses.field(default=values[field.name], kw_only=True))
        for field in dataclasses.fields(kind)
        if field.name in values
    ]
    if not described:
        return kind
    made = dataclasses.make_dataclass(kind.__name__, described, bases=(kind,), frozen=True, kw_only=True)
    made.__doc__ = kind.__doc__
    return tyro.conf.configure()(made)


def _known_key(key: str, hints: Mapping[str, Any], path: Path) -> str:
    if key not in hints:
        close = difflib.get_close_matches(key, hints, n=1)
        advice = f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(hints)}."
        raise ConfigError(f"{path} has an unknown key {key!r}. {advice}")
    return key


def _convert(key: str, value: Any, hint: Any, path: Path) -> Any:
    """YAML's value as the field's type. YAML reads 2e-5 as text, and knows neither paths nor tuples."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    target = next(option for option in options if option is not type(None))
    origin = typing.get_origin(target)
    try:
        if origin is tuple and isinstance(value, list):
            items = typing.get_args(target)
            kinds = items[:1] * len(value) if items[-1] is Ellipsis else items
            return tuple(_convert(key, item, item_kind, path) for item, item_kind in zip(value, kinds, strict=True))
        if origin is Literal and value in typing.get_args(target):
            return value
        if target is Path and isinstance(value, str):
            beside = path.parent / value
            return beside if beside.exists() else Path(value)
        if target is float and isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(target, type) and type(value) is target:
            return value
        if key == "phases" and target is str and isinstance(value, Mapping):  # as its flag writes it
            return ",".join(f"{name}={setting}" for name, setting in value.items())
    except ValueError:
        pass  # falls through to the message
    raise ConfigError(f"{path}: {key} is {value!r}; expected {_describe(target)}.")


def _describe(target: Any) -> str:
    if typing.get_origin(target) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(target)))
    return getattr(target, "__name__", str(target))
