"""The command line: `rune-tui`, `rune-tui --batch`, and the subcommands.

Nothing heavy is imported here: `--help` is drawn from the table below, and a subcommand's module is imported when it
is used. `--batch`, `--help`, `doctor` and `status` never import Textual, torch or llama_cpp. Errors are one plain
sentence on stderr and an exit code of `engine.errors.ExitCode`; RUNE_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from engine.errors import ExitCode, RuneError
from rune_tui.settings import Settings

COMMANDS = {
    "adapters": "List, show, import, archive and restore adapters.",
    "alias": "List, set and remove names such as code-gen@champion.",
    "backend": "List, choose and install what serves the model.",
    "config": "Show the configuration, or where it is read from.",
    "demo": "Run the tasks that ship with rune-tui on the scripted backend.",
    "device": "Say who has the GPU, why, and until when.",
    "doctor": "Say what this machine can run, and how to mend what it cannot.",
    "engine": "Start, stop and inspect the engine.",
    "evaluate": "Measure an adapter, or the base model, on a suite.",
    "evidence": "Measure what promoting an adapter would rest on.",
    "evolve": "Prune, merge and measure the adapters of a task type once.",
    "export-log": "Write attempts or events out as jsonl, csv or md.",
    "gate": "Ask a fixed rule whether an adapter's measured gain is enough.",
    "history": "Show what was changed in the registry, newest first.",
    "improve": "Run a suite, learn from what was verified, prove the gain, use it, and again.",
    "jobs": "List, show, cancel, pause, resume, retry and move training jobs.",
    "merge": "Make one adapter of several.",
    "operations": "List, show, follow, cancel and resume what takes long.",
    "promote": "Show what a promotion rests on, and promote an adapter.",
    "prune": "Archive an adapter, unless something still rests on it.",
    "redo": "Do the last undone change of the registry again.",
    "rehearse": "Write what the base model says on other suites, for an adapter to learn along.",
    "rollback": "Put the champion before this one back.",
    "sessions": "List, show, cancel, resume and export sessions.",
    "status": "Say what the engine is doing.",
    "suite": "List, show, check and add suites: what adapters are measured on.",
    "train": "Make a LoRA adapter from verified work or from a file of examples.",
    "undo": "Take back the newest change of the registry.",
}
"""Name -> one line of help. The module is `rune_tui.commands.<name>`, its command the attribute `command`."""

EPILOG = """\b
Environment:
  RUNE_HOME     data directory, where --home does not say
  RUNE_BACKEND  backend, where neither --backend nor -c says
  RUNE_DEBUG=1  traceback of an error

\b
Exit codes:
  0    done; with --batch: every task ended verified (or verified-in-process, where the task asked for in_process)
  1    --batch ran to its end and at least one task is not verified
  2    bad usage or input: nothing was run, nothing was changed
  3    this machine cannot run it as it is; the message says what to do
  130  interrupted; --resume goes on where it stopped
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"rune_tui.commands.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command), f"{module.__name__} must define `command`"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table: importing all commands to print their first lines would take seconds."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from engine.config import program_version

        click.echo(f"rune-tui {program_version()}")
        ctx.exit()


_PATH = click.Path(path_type=Path)


@click.group(cls=LazyGroup, invoke_without_command=True, epilog=EPILOG, context_settings={"max_content_width": 120})
@click.option(
    "--batch",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[FILE]",
    help="Run the tasks of FILE (JSON Lines or TOML) without a terminal; without FILE, the tasks that ship.",
)
@click.option("--output", type=_PATH, metavar="DIR", help="With --batch: final code, trajectory and run_summary.json.")
@click.option("--junit", type=_PATH, metavar="FILE", help="With --batch: write JUnit XML.")
@click.option("--resume", is_flag=True, help="With --batch: go on with the last run of the same file.")
@click.option("--backend", metavar="NAME", help="With --batch: backend of this run, for instance scripted.")
@click.option("-c", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key of config.toml.")
@click.option("--home", type=_PATH, metavar="DIR", help="Data directory; default $RUNE_HOME, or ~/.rune.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
@click.pass_context
def cli(
    ctx: click.Context,
    batch: str | None,
    output: Path | None,
    junit: Path | None,
    resume: bool,
    backend: str | None,
    overrides: tuple[str, ...],
    home: Path | None,
) -> None:
    """A workstation for a local coding model: give it tasks, and watch it work.

    Without a command it opens the terminal app.
    """
    from engine.config import home_directory

    settings = Settings(home.expanduser().absolute() if home else home_directory(), overrides)
    ctx.obj = settings
    if batch is not None:
        _refuse_command_with_batch(ctx)
        ctx.exit(_run_batch(settings, batch, output, junit, resume, backend))
    for name, value in (("--output", output), ("--junit", junit), ("--resume", resume), ("--backend", backend)):
        if value:
            raise click.UsageError(f"{name} needs --batch.")
    if ctx.invoked_subcommand is None:
        from rune_tui.commands.terminal import open_terminal

        ctx.exit(open_terminal(settings))


def _refuse_command_with_batch(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is not None:
        raise click.UsageError(f"--batch and the command {ctx.invoked_subcommand!r} exclude each other.")


def _run_batch(
    settings: Settings, source: str, output: Path | None, junit: Path | None, resume: bool, backend: str | None
) -> int:
    from rune_tui.commands.batch import run_guarded, shipped_tasks

    return run_guarded(
        settings,
        source=Path(source) if source else shipped_tasks(),
        output=output,
        junit=junit,
        resume=resume,
        backend=backend,
    )


def run(arguments: Sequence[str]) -> int:
    """The command line as a function: the exit code, never an exception but SystemExit from inside click."""
    try:
        result: object = cli.main(list(arguments), prog_name="rune-tui", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.OK
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted.", ExitCode.INTERRUPTED)
    except click.ClickException as error:
        return _complain(f"{_first_line(error.format_message())} See `rune-tui --help`.", ExitCode.USAGE)
    except RuneError as error:
        return _complain(str(error), error.exit_code)
    except BrokenPipeError:
        return ExitCode.INTERRUPTED  # the reader of our output has gone; there is nobody to tell
    except Exception as error:  # the process ends here: one sentence instead of a traceback
        cause = _cause(error)
        if isinstance(cause, RuneError):
            return _complain(str(cause), cause.exit_code)
        return _complain(
            f"unexpected {type(cause).__name__}: {cause}; run again with RUNE_DEBUG=1 for the traceback.",
            ExitCode.ENVIRONMENT,
        )


def _cause(error: BaseException) -> BaseException:
    """What a task group wrapped: the first of our own errors in it, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, RuneError)), causes[0])


def _complain(message: str, code: ExitCode) -> int:
    if os.environ.get("RUNE_DEBUG") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    from rune_tui.terminal_text import visible_line

    click.echo(f"rune-tui: {visible_line(message, 1000)}", err=True)
    return code


def _first_line(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "?", "!")) else f"{line}."


def main() -> None:
    """Entry point of the `rune-tui` script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
