"""Options and YAML keys made from the fields of dataclasses, so that a model's field has one name everywhere.

    parser = Parser("distlab predict step", "How long a step takes.", {"model": Transformer, "layout": Layout})
    given = parser.parse(args)                 # options before the file of --config, that before the defaults
    given.make("layout", Layout)               # SettingError names the field

Not tyro: its import and its parser alone take longer than an answer may.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from distlab.errors import SettingError, printable
from distlab.predict.commands.helps import HELPS
from distlab.predict.commands.presets import unknown
from distlab.predict.commands.values import converted, plain_type, types_of, wrong

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 2**20
"""Of a YAML file: anybody may have written it."""

SECTIONS = (
    "model", "layout", "settings", "memory", "cluster", "software", "run", "search", "collective", "job", "cnn",
    "simulation",
)  # fmt: skip
"""Of such a file. One file may serve all commands; each reads the sections that it needs."""

ALIASES = {
    "dp": "--data", "tp": "--tensor", "pp": "--pipeline", "cp": "--context", "ep": "--expert",
    "sp": "--sequence-parallel", "vpp": "--interleave", "mbs": "--micro-batch", "gbs": "--global-batch",
    "batch-size": "--batch", "nodes": "--gpus", "world-size": "--gpus", "size": "--payload-bytes",
    "seq-length": "--sequence", "price": "--price-per-gpu-hour",
}  # fmt: skip
"""What other programs call an option: Megatron-LM's and DeepSpeed's short names."""

Made = TypeVar("Made")


@dataclass
class Given:
    """What was asked for: values by section and field, and the names of presets."""

    values: dict[str, dict[str, Any]]
    names: dict[str, str] = field(default_factory=dict)
    """Of sections that a preset fills: `model: gpt2`."""
    json: bool = False
    why: bool = False
    """Formulas and their sources, too."""
    figures: dict[str, Path] = field(default_factory=dict)
    """To be drawn, by the name of the option."""

    def make(self, section: str, kind: type[Made]) -> Made:
        """The dataclass; SettingError for a field that is missing or wrong."""
        values = self.values.get(section, {})
        for part in dataclasses.fields(kind):  # type: ignore[arg-type]
            needed = part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
            if needed and part.name not in values:
                raise SettingError(
                    f"{part.name} of {section} is missing; give {option(part.name)}, or {part.name} in the file of "
                    "--config."
                )
        return kind(**values)

    def change(self, section: str, made: Made) -> Made:
        """A preset with the fields that were given in place of its own."""
        values = self.values.get(section, {})
        return dataclasses.replace(made, **values) if values else made  # type: ignore[type-var]


class Parser:
    """Of one command. `sections` gives the dataclass behind each part of its options.

    presets, figures: names that an option may give, and files that it may draw, with their help. With `why` there is
    an option of that name.
    """

    def __init__(
        self,
        prog: str,
        what: str,
        sections: Mapping[str, type],
        presets: dict[str, str],
        figures: Mapping[str, str] = MappingProxyType({}),
        *,
        why: bool = False,
    ) -> None:
        self.sections, self.presets, self.figures = sections, presets, figures
        self.parser = _Arguments(
            prog=prog,
            usage=f"{prog} [options]",
            description=what,
            allow_abbrev=False,
            formatter_class=_Formatter,
        )
        for name, known in presets.items():
            self.parser.add_argument(option(name), metavar="NAME", help=known)
        self.parser.add_argument(
            "--config", metavar="FILE", help=f"YAML with the sections {', '.join(sections)}"
        )
        self.parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
        if why:
            self.parser.add_argument("--why", action="store_true", help="formulas and their sources, too")
        for name, what_of in figures.items():
            self.parser.add_argument(option(name), metavar="FILE", help=f"draw {what_of}: .svg, .png or .pdf")
        self.hints = {section: types_of(kind) for section, kind in sections.items()}
        for section, kind in sections.items():
            group = self.parser.add_argument_group(section)
            for part in dataclasses.fields(kind):
                if part.name in self.hints[section] and part.name != "name":
                    _add(group, section, part, self.hints[section][part.name])

    def parse(self, args: list[str]) -> Given:
        """SettingError for an option that is none, a value that is wrong, and a file that is."""
        found, rest = self.parser.parse_known_args([_dashed(arg) for arg in args])
        if rest:
            raise self._no_option(rest[0].split("=")[0])
        given = Given(
            {section: {} for section in self.sections}, {}, found.json, vars(found).get("why", False)
        )
        for name in self.figures:
            if getattr(found, name) is not None:
                given.figures[name] = figure_path(name, getattr(found, name))
        if found.config is not None:
            from pathlib import Path

            self._read(Path(found.config), given)
        for name in self.presets:
            if getattr(found, name) is not None:
                given.names[name] = getattr(found, name)
                given.values[name] = {}  # the file describes another
        for section, hints in self.hints.items():
            for name, hint in hints.items():
                value = getattr(found, f"{section}.{name}", None)
                if value is not None:
                    given.values[section][name] = converted(name, value, hint)
        return given

    def _no_option(self, name: str) -> SettingError:
        import difflib  # only for a message

        known = [name for action in self.parser._actions for name in action.option_strings]
        meant = ALIASES.get(name.removeprefix("--"), "")
        near = [meant] if meant in known else difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}? " if near else ""
        return SettingError(
            f"there is no option {printable(name)!r}; {hint}`{self.parser.prog} --help` lists all."
        )

    def _read(self, path: Path, given: Given) -> None:
        for section, values in read_yaml(path).items():
            if section not in SECTIONS:
                raise unknown("section", section, SECTIONS)
            if isinstance(values, str):
                if section not in self.presets and section in self.sections:
                    raise SettingError(f"{section} is {printable(values)!r}; it is a mapping of fields.")
                given.names[section] = values
            elif section in self.sections:
                self._take(section, values, given)
            elif section in self.presets:
                raise SettingError(f"{section} is a mapping; `{self.parser.prog}` takes the name of one.")

    def _take(self, section: str, values: Any, given: Given) -> None:
        if not isinstance(values, dict):
            raise SettingError(
                f"{section} is {type(values).__name__}; it is a mapping of fields, such as {{key: 1}}."
            )
        hints = self.hints[section]
        for name, value in values.items():
            if name == "preset" and section in self.presets:
                if not isinstance(value, str):
                    raise wrong(f"preset of {section}", value, "the name of one")
                given.names[section] = value
            elif name not in hints:
                raise unknown(f"key of {section}", name, hints)
            else:
                given.values[section][name] = converted(name, value, hints[name])


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message}; `{self.prog} --help` lists the options.")


class _Formatter(argparse.HelpFormatter):
    """As wide as the terminal. argparse makes a formatter for each option, and asks shutil, an import of its own."""

    def __init__(self, prog: str) -> None:
        try:
            width = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size().columns
        except (ValueError, OSError):
            width = 80
        super().__init__(prog, width=max(width - 2, 40))


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add(group: Any, section: str, part: dataclasses.Field[Any], hint: Any) -> None:
    plain = plain_type(hint)
    target, name = f"{section}.{part.name}", option(part.name)
    default = "" if part.default in (dataclasses.MISSING, None) else f"default: {part.default}"
    if section == "model":
        default = ""  # a preset's own value stands
    what = HELPS.get(part.name, "")
    if section != "model" and part.default is part.default_factory is dataclasses.MISSING:
        what, default = what.partition("; without it")[0], "required"
    said = "; ".join(text for text in (what, default) if text) or None
    if plain is bool:
        group.add_argument(name, dest=target, action=argparse.BooleanOptionalAction, help=said)
        return
    choices = "|".join(map(str, get_args(plain))) if get_origin(plain) is Literal else plain.__name__.upper()
    group.add_argument(name, dest=target, metavar=choices, help=said)


def _dashed(arg: str) -> str:
    """`--micro_batch=2` as `--micro-batch=2`: fields may be written as they are called."""
    name, sign, value = arg.partition("=")
    return name.replace("_", "-") + sign + value if arg.startswith("--") else arg


def figure_path(name: str, text: str) -> Path:
    """A file that a figure can be drawn into; SettingError where it cannot."""
    from pathlib import Path

    from distlab.bench.results import check_figure

    try:
        check_figure(Path(text))
    except (SettingError, OSError, ValueError) as error:
        raise SettingError(f"{name} is {printable(repr(text)[:80])}: {printable(str(error)[:200])}") from None
    return Path(text)


def read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a file. SettingError where there is none."""
    import yaml

    from distlab.plain_yaml import loader

    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")  # a pipe would be waited for
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(
            f"config is {printable(repr(str(path))[:200])}, which cannot be read ({reason}); name a YAML file."
        ) from None
    if len(text) > MOST_BYTES:
        raise SettingError(f"config is {str(path)!r}, of more than {MOST_BYTES} bytes; name a smaller file.")
    try:
        values = yaml.load(text, loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingError(
            f"config is {str(path)!r}, which is no YAML: {printable(str(error)[:200])}"
        ) from None
    if not isinstance(values, dict):
        raise SettingError(
            f"config is {str(path)!r}; it holds a mapping with the sections {', '.join(SECTIONS)}."
        )
    return values
