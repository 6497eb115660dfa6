"""One error tree. A docstring is the default message and says what to do about it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process's exit status means; README prints this table."""

    OK = 0
    """Everything asked for was done; in a batch, every task ended verified."""
    NOT_VERIFIED = 1
    """The batch ran to its end and at least one task did not end verified."""
    USAGE = 2
    """Bad input: nothing was run and nothing was changed."""
    ENVIRONMENT = 3
    """This machine cannot run it as it is; the message says what to install or change."""
    INTERRUPTED = 130
    """Stopped by the user; run again with --resume."""


class RuneError(Exception):
    """Something went wrong in rune-tui; see the log in RUNE_HOME/logs."""

    exit_code = ExitCode.ENVIRONMENT
    status = 500
    """HTTP status that the API answers with."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class InputError(RuneError):
    """The input is not valid; the message names the place and the remedy."""

    exit_code = ExitCode.USAGE
    status = 422


class RequestRefusedError(InputError):
    """The engine does not take this request; the message says what about it."""

    status = 400


class ConfigError(InputError):
    """config.toml has a key or a value that is not valid; the message names it."""


class NotFoundError(RuneError):
    """There is nothing of that id; list what there is and pick one."""

    exit_code = ExitCode.USAGE
    status = 404


class ConflictError(RuneError):
    """That cannot be done in the present state; the message says which state it is in."""

    exit_code = ExitCode.USAGE
    status = 409


class LeaseLostError(ConflictError):
    """Another engine owns this job now; the work that was done here is not recorded."""


class EnvironmentUnfitError(RuneError):
    """This machine cannot run it as it is; `rune-tui doctor` names the remedy."""

    status = 503


class SandboxUnavailableError(EnvironmentUnfitError):
    """No sandbox of the required level works here; install bubblewrap, or lower `sandbox.min_level`."""


class EngineBusyError(EnvironmentUnfitError):
    """Another engine owns this RUNE_HOME; use it, or stop it with `rune-tui engine stop`."""


class EngineUnreachableError(EnvironmentUnfitError):
    """No engine answers; start one with `rune-tui engine start`."""


class DeviceBusyError(EnvironmentUnfitError):
    """The device is not free; the message says who has it and until when. Try again then, or let the request wait."""


class StartInterruptedError(EnvironmentUnfitError):
    """Something killed a process while it was being started, which says nothing about the next try."""


class DeviceLostError(EnvironmentUnfitError):
    """The GPU does not answer any more; see `nvidia-smi` and the kernel's log, then restart the engine."""


class BackendUnavailableError(EnvironmentUnfitError):
    """That backend cannot run here; the message says what to install."""


class ModelNotFoundError(EnvironmentUnfitError):
    """The model file is not there; set `model.path` in config.toml or reinstall rune-tui."""


class ProviderError(RuneError):
    """The model server failed; its last lines are in RUNE_HOME/logs."""

    status = 502


class ProviderTimeoutError(ProviderError):
    """The model server did not answer in time; raise `inference.request_timeout_s` or ask for fewer tokens."""

    status = 504


class ContextOverflowError(ProviderError):
    """The prompt is longer than the model's context; shorten the task or raise `model.context_tokens`."""

    status = 422


class RequestAbortedError(ProviderError):
    """The device was handed over while this request ran; it is asked again when the model serves."""

    status = 503


class AdapterUnsupportedError(ProviderError):
    """This backend cannot use adapters; choose vllm, llamacpp or transformers."""

    status = 409


class AdapterRejectedError(InputError):
    """The adapter is not acceptable; the message says which check it failed."""


class PipelineError(RuneError):
    """The pipeline could not go on; the message says in which phase and why."""


class DependencyCycleError(PipelineError):
    """The subtasks depend on each other in a circle; the message names it."""


class BudgetExceededError(PipelineError):
    """The run's budget of seconds or tokens is spent; raise it or resume with a new one."""


class TrainingError(RuneError):
    """The training job could not go on; the message says at which step and why."""
