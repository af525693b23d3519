"""Flags of one verb, read by absl and ml_collections, with every mistake turned into one clear message."""

import difflib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from biomedgpt_jax.core.errors import UsageError

Config = Any  # a ConfigDict; ml_collections types each value as any of all types that it can hold


def define_config(values: flags.FlagValues, default: str | None) -> None:
    """Adds --config=FILE.py:ARGS with --config.a.b=value overrides."""
    config_flags.DEFINE_config_file(
        "config", default, "Python file with get_config(arg); then --config.a.b=value.", flag_values=values
    )


def require(values: flags.FlagValues, name: str, example: str) -> Any:
    """The value of a flag that the verb cannot do without."""
    if values[name].value in (None, "", []):
        raise UsageError(f"--{name} is missing. For example: {example}")
    return values[name].value


def require_folder(values: flags.FlagValues, name: str, example: str) -> Path:
    """The folder that a flag names, for the verbs that write to it as to a disk."""
    folder = require(values, name, example)
    if "://" in folder:
        raise UsageError(
            f"--{name}={folder}: expected a path. Mount the bucket on all machines (gcsfuse) and give its folder there."
        )
    return Path(folder)


def require_config(values: flags.FlagValues, example: str, keys: Iterable[str]) -> Config:
    """The configuration, which must have these keys: a file of another verb has others."""
    config = require(values, "config", example)
    missing = [key for key in keys if key not in config]
    if missing:
        raise UsageError(
            f"--config={_file(values)} is not a configuration for this verb: it has no {', '.join(missing)}; "
            f"found {', '.join(sorted(config))}. For example: {example}"
        )
    return config


def parse(module: ModuleType, rest: list[str]) -> flags.FlagValues:
    """Parses the flags that `module.define` declares; those in `module.SEVERAL` may be given as `--name A B`.

    Raises:
        UsageError: an unknown flag or configuration key (with the nearest right one), a value of the wrong
            type, a configuration file that is not there or fails.
    """
    _check_text(rest)
    rest = _joined(rest, getattr(module, "SEVERAL", ()))
    values = flags.FlagValues()
    module.define(values)
    # config_flags looks for the overrides of --config in sys.argv itself.
    sys.argv = [sys.argv[0], *rest]
    # A configuration file may import its neighbours, as a script may.
    sys.path[:0] = [str(Path(path).resolve().parent) for path in _config_files(rest)]
    try:
        left = values(sys.argv)
        if "config" in values and values["config"].present:
            values.config.lock()
    except flags.UnrecognizedFlagError as error:
        hint = _first_line(error) if "Did you mean" in str(error) else f"{error}.{suggest(error.flagname, values)}"
        raise UsageError(hint) from error
    except Exception as error:  # a configuration file may fail in any way
        raise UsageError(_config_message(error, rest)) from error
    if len(left) > 1:
        raise UsageError(f"Not a flag: {left[1]!r}. Flags are written --name=value.")
    return values


def help_text(module: ModuleType) -> str:
    values = flags.FlagValues()
    module.define(values)
    names = sorted(name for name in values if name not in ("help", "helpfull", "helpshort", "helpxml"))
    # absl writes the choices of an enumeration over its help, as <a|b>.
    lines = [
        f"  --{name}: {' '.join(str(values[name].help).split())} (default: {values[name].default})" for name in names
    ]
    return f"{(module.__doc__ or '').strip()}\n\nflags:\n" + "\n".join(lines)


def missing_key(error: Exception) -> str | None:
    """What to say where a verb read a key that its configuration does not have; None for any other error."""
    if not isinstance(error, AttributeError) or not isinstance(error.obj, ConfigDict):
        return None
    there = ", ".join(sorted(error.obj))
    return (
        f"The configuration lacks the key {error.name!r} in the section that holds {there or 'nothing'}."
        f"{suggest(str(error.name), error.obj)} Add it to the file, or begin from one in configs/."
    )


def suggest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _check_text(rest: list[str]) -> None:
    """Raises UsageError for what no path and no tokenizer can take."""
    for argument in rest:
        try:
            plain = b"\0" not in argument.encode()
        except UnicodeEncodeError:
            plain = False
        if not plain:
            name = argument.split("=")[0]
            raise UsageError(f"{name!a} holds a NUL character or bytes that are not UTF-8; expected plain text.")


def _joined(rest: list[str], several: Iterable[str]) -> list[str]:
    """`--compare A B` as `--compare=A,B`, for the flags of a verb that take several values."""
    joined: list[str] = []
    for argument in rest:
        last = joined[-1] if joined else ""
        if argument.startswith("-") or last.split("=")[0] not in {f"--{name}" for name in several}:
            joined.append(argument)
        else:
            joined[-1] = f"{last},{argument}" if "=" in last else f"{last}={argument}"
    return joined


def _file(values: flags.FlagValues) -> str:
    flag: Any = values["config"]  # of a private class of config_flags
    return flag.config_filename


def _config_files(rest: list[str]) -> list[str]:
    values = [argument.split("=", 1)[1] for argument in rest if argument.startswith("--config=")]
    return [value.split(":")[0] for value in values]


def _config_message(error: Exception, rest: list[str]) -> str:
    given = next((argument for argument in rest if argument.startswith("--config=")), "--config")
    text = str(error)
    if isinstance(error, AttributeError | KeyError) and (message := _unknown_key(text, rest)):
        return message
    if isinstance(error, OSError) and not all(Path(file).is_file() for file in _config_files(rest)):
        return f"{given}: no such configuration file; expected --config=configs/NAME.py:ARGS."
    if isinstance(error, flags.Error) and not text.startswith("flag --config="):
        return text
    if "Error whilst parsing config file" in text:
        return f"{given}: {text.rstrip().splitlines()[-1].removeprefix('ValueError: ')}"
    return f"{given}: the file failed: {type(error).__name__}: {text}. Run again with --debug to see where."


def _unknown_key(text: str, rest: list[str]) -> str | None:
    """What to say where ml_collections complains of the key of an override, None where it does of something else.

    It quotes the missing key and the nearest one, or names the path that it looked up.
    """
    # Python quotes the message of a KeyError, once more for each error around it.
    text = text.replace("\\'", "'").replace("\\n", "\n").strip("\"'")
    word = text.split("'")[0]
    for name in (argument.split("=")[0] for argument in rest if argument.startswith("--config.")):
        path = name.removeprefix("--config.")
        if word in path.split(".") or text.endswith(f": {path}"):
            near = re.search(r'Did you mean "(\w+)"', text)
            hint = f" Did you mean {near[1]!r}?" if near else ""
            return f"{name}: there is no such configuration key.{hint}"
    return None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
