"""Running the command line, and what a person is told when it cannot go on."""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from hfseg.cli.app import app, say
from hfseg.errors import HfsegError

UsageError: Any = typer.BadParameter.__bases__[0]
"""What is raised for wrong flags; Typer carries its own copy of click, and gives no name to this."""

_TORCHVISION_HINT = (
    "torchvision is installed and does not fit torch, which breaks Transformers; nothing here needs it: "
    "`pip uninstall torchvision`, or install the one that was built for this torch"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a run failed, 2 something the user can mend, 130 and 143 stopped."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost a factor of 9 on two busy cores
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("hfseg").setLevel(logging.INFO)
    debug = "--debug" in (sys.argv if arguments is None else arguments)
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="hfseg", standalone_mode=False)
    except HfsegError as error:
        _fail(error.message, error.hint, error.exit_code, debug)
    except UsageError as error:
        if not error.message:  # no command at all: the help has been shown
            sys.exit(2)
        _fail(*_usage(error), 2, debug)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", None, 130, debug)
    except OSError as error:  # of the system: a read-only place, a full disk, a file that went away
        _fail(*_of_system(error), 1, debug)
    except Exception as error:  # the last resort: say it in a line, keep the traceback for --debug
        _fail(*_unexpected(error), 1, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, hint: str | None, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    rank = os.environ.get("RANK", "0")
    text = f"error{'' if rank == '0' else f' (process {rank})'}: {message}"
    say(f"{text}\n\nhint: {hint}" if hint else text)
    sys.exit(code)


def _of_system(error: OSError) -> tuple[str, str]:
    """Name the file or folder that the system refused; without one, the error is like any other."""
    if error.filename is None or error.strerror is None:
        return _unexpected(error)
    return f"`{error.filename}`: {error.strerror}", "give another place, or see to this one; --debug shows who asked"


def _unexpected(error: BaseException) -> tuple[str, str]:
    """Put an error that nobody foresaw into a line; Transformers hides those of torchvision behind one of its own."""
    said, cause = f"{type(error).__name__}: {error}", error.__cause__ or error.__context__
    while cause is not None:
        if "torchvision" in str(cause):
            return f"{type(cause).__name__}: {cause}", _TORCHVISION_HINT
        cause = cause.__cause__ or cause.__context__
    return said, "this is unexpected; --debug shows where it happened"


def _usage(error: Any) -> tuple[str, str]:
    """Put what the parser says about wrong flags into our words."""
    command = error.ctx.command_path if error.ctx else "hfseg"
    sentence, _, meant = error.format_message().partition(" Did you mean ")
    possible = getattr(error, "possibilities", None) or ([meant.rstrip("?").strip("'")] if meant else [])
    hint = f"`{command} --help` lists what there is"
    sentence = sentence.split("\n")[0].rstrip(".")
    return sentence[0].lower() + sentence[1:], f"did you mean `{possible[0]}`? {hint}" if possible else hint
