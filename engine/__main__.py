"""`python -m engine --home DIR`: one engine in the foreground until SIGTERM, SIGINT or POST /shutdown.

Whatever prevents it from starting is one plain sentence on stderr and an exit code of `engine.errors.ExitCode`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engine.config import Config, home_directory, load_config
from engine.core import Engine
from engine.device.processes import become_subreaper
from engine.errors import EnvironmentUnfitError, ExitCode, RuneError
from engine.home import prepare_home
from engine.logs import log_to
from engine.server import serve
from registry.errors import RegistryError

EXTRA_EXIT_S = 15.0
"""Beyond `engine.shutdown_s`: closing the model server and the database takes less. Then the process ends anyhow."""

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an engine; gives the exit status."""
    options = _parser().parse_args(arguments)
    home = (options.home or home_directory()).expanduser().absolute()
    try:
        config = load_config(home / "config.toml", options.config)
        prepare_home(home)
        with log_to(home):
            return _logged(config, home)
    except RuneError as error:
        sys.stderr.write(f"rune-tui engine: {error}\n")
        return error.exit_code


def _logged(config: Config, home: Path) -> int:
    try:
        return asyncio.run(_run(config, home))
    except RuneError as error:
        log.error("%s", error)
        raise
    except RegistryError as error:
        log.exception("the database or the registry failed")
        raise EnvironmentUnfitError(str(error)) from error
    except Exception:  # the process ends here, with one sentence instead of a page
        log.exception("the engine ended unexpectedly")
        raise RuneError(f"The engine ended unexpectedly; see {home / 'logs' / 'engine.log'}.") from None


async def _run(config: Config, home: Path) -> int:
    with suppress(OSError):  # then orphans of a killed guardian go to init, and are found by their tree's name
        become_subreaper()
    async with Engine(config, home) as engine:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, engine.request_shutdown)
        await serve(engine)
        # The rows say where everything stands; a child or a thread that does not end must not hold the home.
        checkpoint_s = config.device.trainer_grace_s if engine.device.snapshot.job else 0.0
        loop.call_later(config.engine.shutdown_s + checkpoint_s + EXTRA_EXIT_S, os._exit, ExitCode.ENVIRONMENT)
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description="Run a rune-tui engine in the foreground.")
    parser.add_argument("--home", type=Path, help="RUNE_HOME, where everything is kept (default: ~/.rune)")
    parser.add_argument("-c", dest="config", action="append", default=[], metavar="section.key=value")
    return parser


if __name__ == "__main__":
    sys.exit(main())
