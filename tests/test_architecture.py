"""The promises of the layout: imports point down, and asking for help is quick."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hfseg"
LEVEL = {
    "cli": 0,
    "recipes": 1,
    **dict.fromkeys(("engine", "data", "models", "losses", "metrics", "viz", "video", "explain"), 2),
    **dict.fromkeys(("config", "labels", "values", "logits", "bands", "sizes", "files"), 3),
    **dict.fromkeys(("errors", "on_import"), 4),
}
SHARED_BY_RECIPES = {
    "run",
    "training",
    "scoring",
    "subjects",
    "teacher",
    "evidence",
    "pictures",
    "console",
    "ports",
    "inputs",
    "clip_output",
    "explain.activation",
    "explain.opened",
}
"""Modules in `recipes` that are no verbs; those of a verb that is a folder are its own, but for the ones named here."""


def imports(package: Path) -> Iterator[tuple[Path, list[str]]]:
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                if node.module and node.module.startswith("hfseg."):
                    target = node.module.split(".")[1:]
                    folder = package.joinpath(*target)
                    inside = [a.name for a in node.names if {*folder.glob(f"{a.name}.py"), *folder.glob(f"{a.name}/")}]
                    yield from ((path, [*target, name]) for name in inside) if inside else [(path, target)]
            elif isinstance(node, ast.Import):
                yield from ((path, a.name.split(".")[1:]) for a in node.names if a.name.startswith("hfseg."))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_point_down():
    bad = [
        f"{path}: {part(path)} -> {target[0]}"
        for path, target in imports(PACKAGE)
        if part(path) in LEVEL
        and part(path) != target[0]
        and LEVEL[target[0]] <= LEVEL[part(path)]
        and not {part(path), target[0]} <= {"values", "labels", "logits", "config"}
    ]
    assert not bad, "\n".join(bad)


def test_verbs_never_import_verbs():
    bad = [
        f"{path.relative_to(PACKAGE)}: {'.'.join(target)}"
        for path, target in imports(PACKAGE)
        if part(path) == "recipes"
        and target[0] == "recipes"
        and target[1] != path.relative_to(PACKAGE / "recipes").parts[0]
        and not {target[1], ".".join(target[1:3])} & SHARED_BY_RECIPES
    ]
    assert not bad, "\n".join(bad)


def test_every_module_has_a_level():
    parts = {part(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert parts <= set(LEVEL)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["finetune", "--help"],
        ["doctor", "--help"],
        ["backbones", "--help"],
        ["compare", "--help"],
        ["--version"],
    ],
)
def test_help_imports_neither_torch_nor_transformers(arguments):
    code = (
        "import sys; from hfseg.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'evaluate', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_core_parts_import_without_optional_libraries():
    blocked = ("datasets", "evaluate", "kornia", "torchvision")
    code = (
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "import hfseg.models, hfseg.losses, hfseg.metrics, hfseg.engine.loop, hfseg.engine.evaluation"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
