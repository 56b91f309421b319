"""The commands and options of the command line as Markdown, read from its parser."""

import argparse

from spectok.cli.main import parser


def command_tables() -> str:
    """A section for each command with its usage, its arguments and its examples, and one for what all commands take."""
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    every = set.intersection(*({action.dest for action in _actions(command)} for command in commands.choices.values()))
    sections = [_section(name, command, every) for name, command in commands.choices.items()]
    shared = [action for action in _actions(next(iter(commands.choices.values()))) if action.dest in every]
    return "\n".join([*sections, f"### Options of every command\n\n{_table(shared)}"])


def _actions(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in command._actions if action.dest != "help"]


def _section(name: str, command: argparse.ArgumentParser, every: set[str]) -> str:
    own = [action for action in _actions(command) if action.dest not in every]
    options = [action for action in own if action.option_strings]
    usage = [
        "spectok",
        name,
        *(f"{action.option_strings[-1]} {_value(action)}" for action in options if action.required),
    ]
    usage += ["[options]", *(_positional(action) for action in own if not action.option_strings)]
    examples = "\n".join(f"    {line.strip()}" for line in (command.epilog or "").splitlines()[1:])
    return f"### {name}\n\n{command.description}\n\n    {' '.join(usage)}\n\n{_table(own)}\nExamples:\n\n{examples}\n"


def _table(actions: list[argparse.Action]) -> str:
    rows = [f"| {_names(action)} | {(action.help or '') % vars(action)} |" for action in actions]
    return "\n".join(["| argument | meaning |", "|---|---|", *rows]) + "\n"


def _value(action: argparse.Action) -> str:
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper().replace("_", "-"))


def _positional(action: argparse.Action) -> str:
    forms = {"+": f"{_value(action)} ...", "?": f"[{_value(action)}]"}
    return forms.get(str(action.nargs), _value(action))


def _names(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {_value(action)}"
    names = [f"`{name}{value}`" for name in action.option_strings] or [f"`{_value(action)}`"]
    return ", ".join(names).replace("|", "` or `")
