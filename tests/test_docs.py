"""What is written about the program is true: pages made from the code, commands in the README, packaged recipes."""

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from hfseg.cli import app
from hfseg.cli.flags import recipe_path, training_flags
from hfseg.cli.options import DataOptions, RunOptions, TrainingOptions
from hfseg.recipes.run import FinetuneConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line for line in BLOCKS.splitlines() if line.startswith("hfseg ")]


@pytest.mark.slow
def test_pages_made_from_the_code_are_fresh():
    script = ROOT / "scripts" / "build_docs.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_one_that_the_program_takes(command):
    name, *arguments = shlex.split(command, comments=True)[1:]
    group = typer.main.get_command(app)
    params = group.commands[name].make_context(name, list(arguments)).params
    if name == "finetune":
        options, data, run = (
            holder(**{field.name: params[field.name] for field in fields(holder)})
            for holder in (TrainingOptions, DataOptions, RunOptions)
        )
        flags = training_flags(options, data, run)
        FinetuneConfig.load(yaml_path=recipe_path(options.config, flags), flags=flags, sets=run.sets or ())


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", BLOCKS, flags=re.MULTILINE))
def test_a_target_of_the_readme_is_in_the_makefile(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "hfseg" / "configs").glob("*.yaml")) if not path.stem.endswith("-study")],
    ids=lambda path: path.stem,
)
def test_a_packaged_recipe_loads(path):
    assert FinetuneConfig.load(yaml_path=path)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
)
def test_links_and_paths_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing
