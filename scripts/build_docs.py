"""Write docs/config.md from the settings' own documentation, and docs/cli.md from the command line's."""

import json
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel

from hfseg.cli import app
from hfseg.config import KIND, kind_of, models_in
from hfseg.recipes.compare import CompareConfig
from hfseg.recipes.evaluate import EvaluateConfig
from hfseg.recipes.explain import ExplainConfig
from hfseg.recipes.predict import PredictConfig
from hfseg.recipes.prepare import PrepareConfig
from hfseg.recipes.run import FinetuneConfig

DOCS = Path(__file__).parents[1] / "docs"


def config_page() -> str:
    """Describe every setting of every command, a section each; what two commands share, once."""
    head = (
        "# Settings of a run\n\nMade by `make docs` from the code. Any of them can stand in a YAML file (`--config`) "
        "or behind `--set`, as in `--set optim.lr=1e-4`.\n"
    )
    seen: set[type[BaseModel]] = set()
    parts = [head, *sections(FinetuneConfig, "", seen)]
    others = {
        "evaluate": EvaluateConfig,
        "predict": PredictConfig,
        "explain": ExplainConfig,
        "compare": CompareConfig,
        "data prepare": PrepareConfig,
    }
    for command, config in others.items():
        parts += [f"# Settings of `hfseg {command}`\n\nBehind `--set`.\n", *sections(config, "", seen)]
    return "\n".join(parts)


def sections(config: type[BaseModel], path: str, seen: set[type[BaseModel]]) -> Iterator[str]:
    """Give a table of the plain settings of a config, then the sections inside it that were not `seen` yet."""
    inner = {name: models_in(field.annotation) for name, field in config.model_fields.items()}
    plain = [name for name in config.model_fields if not inner[name]]
    if plain:
        yield "| key | default | |\n|---|---|---|\n" + "\n".join(row(config, path, name) for name in plain) + "\n"
    shared = [f"`{path}{name}`" for name, choices in inner.items() if choices and seen.issuperset(choices)]
    if shared:
        yield f"{', '.join(shared)}: as above.\n"
    for name, choices in inner.items():
        for choice in choices:
            if choice in seen:
                continue
            seen.add(choice)
            kind = f" with `{KIND}: {kind_of(choice)}`" if len(choices) > 1 else ""
            dotted = f"{path}{name}"
            yield f"## `{dotted}`{kind}\n\n{cleandoc(choice.__doc__ or '')}\n"
            yield from sections(choice, f"{dotted}.", seen)


def row(config: type[BaseModel], path: str, name: str) -> str:
    """Describe one setting."""
    field = config.model_fields[name]
    default = "needed" if field.is_required() else f"`{shown(field.get_default(call_default_factory=True))}`"
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    choices = [f"`{choice}`" for choice in words(field.annotation)]
    told = f" One of {', '.join(choices)}." if len(choices) > 1 and any(each not in text for each in choices) else ""
    return f"| `{path}{name}` | {default} | {text}{told} |"


def words(annotation: Any) -> list[str]:
    """The words that a setting can be, where it can be nothing else."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return parts if get_origin(annotation) is Literal else words(parts[0]) if len(parts) == 1 else []


def shown(value: Any) -> str:
    """Write a default as YAML would, on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return json.dumps(plain) if not isinstance(plain, str | Path) else str(plain)


def cli_page() -> str:
    """Describe every command and option."""
    group = typer.main.get_command(app)
    return "\n".join(["# Command line\n\nMade by `make docs` from the code.\n", *commands(group, "hfseg")])


def commands(group: Any, path: str) -> Iterator[str]:
    """Describe the commands of a group, and those of the groups in it."""
    context = typer.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, f"{path} {name}")
            continue
        yield f"## `{path} {name}`\n\n{command.help}\n"
        rows = [f"| `{usage(parameter)}` | {getattr(parameter, 'help', '') or ''} |" for parameter in command.params]
        yield "| | |\n|---|---|\n" + "\n".join(rows)
        yield f"\n{command.epilog}\n" if command.epilog else ""


def usage(parameter: Any) -> str:
    """Write an option or argument as one types it."""
    return ", ".join(parameter.opts) if parameter.param_type_name == "option" else parameter.name.upper()


def main(check: bool) -> None:
    """Write the pages; with `check`, stop where one is out of date."""
    for name, page in {"config.md": config_page(), "cli.md": cli_page()}.items():
        path = DOCS / name
        if check and path.read_text(encoding="utf-8") != page:
            sys.exit(f"{path} is out of date: run `make docs`")
        path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main("--check" in sys.argv)
