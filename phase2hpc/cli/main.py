"""Assemble the commands, and turn their errors into one line and an exit code.

Commands import heavy modules when they run, so that ``--help`` is fast on a login node.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from phase2hpc.cli.command_line import CONTEXT, Command, Group, command_line
from phase2hpc.cli.doctor import doctor
from phase2hpc.cli.evaluate import evaluate
from phase2hpc.cli.jobs import cancel, logs, status
from phase2hpc.cli.leaderboard import leaderboard
from phase2hpc.cli.levels import levels
from phase2hpc.cli.options import RunCommand
from phase2hpc.cli.predict import calibrate, export, predict
from phase2hpc.cli.report import report
from phase2hpc.cli.runs import runs_app
from phase2hpc.cli.store import prepare, store_app
from phase2hpc.cli.submit import submit
from phase2hpc.cli.train import train
from phase2hpc.errors import INTERRUPTED, InputError, Phase2Error
from phase2hpc.utils.terminal import accept_any_text, check_readable

app = typer.Typer(
    name="phase2hpc",
    help="Multi-task learning of crystal properties as batch jobs on HPC clusters.",
    cls=Group,
    context_settings=CONTEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
PANELS: dict[str, tuple[Any, ...]] = {
    "Data": (prepare, store_app),
    "Training": (train, submit, levels),
    "Jobs": (status, logs, cancel, doctor),
    "Results": (runs_app, predict, evaluate, report, leaderboard, calibrate, export),
}
for panel, entries in PANELS.items():
    for entry in entries:
        if isinstance(entry, typer.Typer):
            app.add_typer(entry, name=entry.info.name, cls=Group, rich_help_panel=panel)
        else:
            kind = RunCommand if entry in (train, submit) else Command
            app.command(cls=kind, rich_help_panel=panel)(entry)


def _version(asked: bool) -> None:
    if asked:
        from phase2hpc import __version__

        print(f"phase2hpc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    import logging

    logging.basicConfig(format="phase2hpc: %(levelname)s: %(message)s")


def main() -> None:
    """Run the command line; an expected error is one line and its exit code."""
    accept_any_text()
    try:
        check_readable([*sys.argv, str(Path.cwd())])
        code = command_line(app)(standalone_mode=False)
        if code == INTERRUPTED:  # typer's translation of KeyboardInterrupt
            raise KeyboardInterrupt
        if sys.stdout is not None:  # closed by `>&-`
            sys.stdout.flush()
        _end(code or 0)
    except Phase2Error as error:
        _end(error.exit_code, "" if error.already_reported else str(error))
    except ModuleNotFoundError as error:
        from phase2hpc.utils.dependencies import extra_with

        module = (error.name or "").partition(".")[0]
        extra = extra_with(module)
        if not extra:
            raise
        _end(
            InputError.exit_code,
            f"this command needs {module}, which is not installed here: "
            f"pip install 'phase2hpc[{extra}]'",
        )
    except (typer.Abort, KeyboardInterrupt):
        _end(INTERRUPTED, "interrupted")
    except OSError as error:
        from phase2hpc.utils.os_errors import write_error

        # A closed pipe (`| head`) is no error to report; typer does the same.
        message = "" if isinstance(error, BrokenPipeError) else str(write_error(error))
        _end(Phase2Error.exit_code, message)
    except Exception as error:
        # A usage error, which typer would show as a box of several lines. Versions of typer take
        # the class from different packages.
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        message = " ".join(error.format_message().split())
        _end(error.exit_code, f"{message} (see --help)" if message else "")


def _end(code: int, message: str = "") -> NoReturn:
    """Exit with this code, even if a standard stream is closed or its disk is full."""
    if message:
        with suppress(OSError):
            print(f"phase2hpc: {message}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            # Python flushes again at exit; a failure there would change the exit code to 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
