"""Command lines of ``key=value`` words. A dataclass is the schema: its fields are the options, with their help.

A field made by ``places`` takes the words that are no options, such as folders.
"""

import difflib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields
from typing import Any, get_args, get_type_hints

READERS = {  # in this order, where an option may be of several types
    type(None): {"null": None, "none": None}.__getitem__,
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    int: int,
    float: float,
    str: str,
}
KINDS = {type(None): "null", bool: "true or false", int: "an integer", float: "a number", str: "text"}


def option(help: str, **default) -> Any:
    """A field of a schema: ``seed: int = option("of the order", default=0)``; without a default it must be given."""
    return field(metadata={"help": help}, **default)


def places(help: str) -> Any:
    """A field for all words that are not ``name=value``, and for those that are the name of a file."""
    return field(metadata={"help": help, "places": True}, default=())


def main(schema: type, work: Callable[[Any], None], usage: str, remedy: str) -> None:
    """Parse the command line, do the work; ends the process with 2 for mistakes, 1 for failures, 130 for Ctrl-C."""
    if {"-h", "--help", "help"} & set(sys.argv[1:]):
        return print(explain(schema, usage))
    try:
        work(parse(schema, sys.argv[1:]))
    except ValueError as error:
        leave(2, f"error: {error}")
    except OSError as error:
        leave(1, f"error: {error}")
    except KeyboardInterrupt:
        leave(130, f"interrupted; {remedy}")


def leave(code: int, message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def parse(schema: type, words: list[str]) -> Any:
    """The schema's object that the words describe; ValueError for a word that is unknown, given twice or no value."""
    hints, given = get_type_hints(schema), {}
    for name in (each.name for each in placed(schema)):
        given[name] = tuple(word for word in words if is_place(word))
        words = [word for word in words if not is_place(word)]
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word}: options are given as key=value; --help lists them")
        if name not in hints:
            raise ValueError(f"no option {name}{closest(name, list(hints))}; --help lists them all")
        if name in given:
            raise ValueError(f"{name} is given twice; leave one out")
        given[name] = read(name, unquoted(text), hints[name])
    missing = [each.name for each in fields(schema) if each.default is MISSING and each.name not in given]
    if missing:
        raise ValueError(f"{missing[0]}= is missing; --help explains it")
    return schema(**given)


def placed(schema: type) -> list[Field]:
    return [each for each in fields(schema) if "places" in each.metadata]


def is_place(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return os.path.exists(word) or not (equals and name.isidentifier())


def closest(name: str, known: list[str]) -> str:
    """`` (did you mean seed?)`` where one of the known names is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def read(name: str, text: str, hint: Any) -> Any:
    kinds = get_args(hint) or (hint,)
    for kind in (each for each in READERS if each in kinds):
        try:
            return READERS[kind](text)
        except (ValueError, KeyError):
            continue
    raise ValueError(f"{name}={text}: must be {' or '.join(KINDS[kind] for kind in kinds)}")


def unquoted(text: str) -> str:
    """Without the second pair of quotes that Hydra asks for around braces."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def explain(schema: type, usage: str) -> str:
    lines = {each.name: f"  {each.name + '=' + shown(each):<22} {each.metadata['help']}" for each in fields(schema)}
    lines |= {each.name: f"  {each.name.upper():<22} {each.metadata['help']}" for each in placed(schema)}
    return "\n".join([usage, "", "options (key=value):", *lines.values()])


def shown(each: Field) -> str:
    """The default as a person types it."""
    return "..." if each.default is MISSING else json.dumps(each.default).strip('"')
