"""Options of a stage in one frozen dataclass: default, help and check of each stand together."""
import argparse
import dataclasses
import typing

from .checks import choice, positive, within


def option(default, help: str | None = None, **more):
    """A field of a dataclass of options.

    default: its value where nothing is given
    help: str, what --help says; None for a field that is no option of the command line
    more: metavar and choices as argparse has them; positive=True, or the highest value, or
        within=(low, high): what a value other than a default of None must be
    """
    return dataclasses.field(default=default, metadata={"help": help, **more})


class Options:
    """Base of the dataclasses of options, which are checked whenever one is made."""

    def __post_init__(self):
        for field, flag, kind in self._fields():
            value, more = getattr(self, field.name), field.metadata
            if value is None and field.default is None:
                continue
            if "choices" in more:
                choice(flag, value, more["choices"])
            if "positive" in more:                    # 1e4 for a whole number becomes one
                value = positive(flag, value, integer=kind is int)
                if more["positive"] is not True:
                    within(flag, value, 1, more["positive"])
                object.__setattr__(self, field.name, value)
            if "within" in more:
                value = within(flag, value, *more["within"], integer=kind is int)
                object.__setattr__(self, field.name, value)

    @classmethod
    def _fields(cls):
        """Each field, its option on the command line, and its type where it is not None."""
        for field in dataclasses.fields(cls):
            kind, *_ = typing.get_args(field.type) or [field.type]
            yield field, "--" + field.name.replace("_", "-"), kind

    @classmethod
    def of(cls, args: argparse.Namespace, **more):
        """From the command line's values; more: fields that it does not name. Raises InputError."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in args]
        return cls(**{**{name: getattr(args, name) for name in names}, **more})

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser, title: str, *, only=None, without=(),
               **defaults):
        """Add the options to a parser, as a group.

        parser: ArgumentParser
        title: str, of the group
        only, without: names of fields to add, None for all, and to leave out
        defaults: other ones than the fields'
        Returns the group's add_argument, for options that are no fields.
        """
        add = parser.add_argument_group(title).add_argument
        for field, flag, kind in cls._fields():
            left_out = field.name in without or field.name not in (only or {field.name})
            if left_out or field.metadata.get("help") is None:
                continue
            shown = {k: v for k, v in field.metadata.items() if k in ("help", "metavar", "choices")}
            how = {"type": kind}
            if kind is bool:
                on = argparse.BooleanOptionalAction            # --name, --no-name
                how = {"action": on if field.default else "store_true"}
            add(flag, default=defaults.get(field.name, field.default), **shown, **how)
        return add
