"""How often a phase may try again: the first setting that is given wins."""

from __future__ import annotations

from engine.api_models import PhaseName
from engine.config import PipelineSection

DEFAULT_CAP = 5
"""Where nothing says otherwise: small models rarely recover after five tries."""


def iteration_cap(
    phase_setting: int | None = None, run_override: int | None = None, global_setting: int | None = None
) -> int:
    """Per-phase setting, then the run's override, then the global setting, then 5. Zero and None mean "not given"."""
    return phase_setting or run_override or global_setting or DEFAULT_CAP


def phase_cap(phase: PhaseName, settings: PipelineSection, run_override: int | None) -> int:
    """The cap of `phase` under config.toml and the task's own `max_attempts`."""
    per_phase = {
        PhaseName.DECOMPOSE: settings.decompose_iterations,
        PhaseName.PLAN: settings.plan_iterations,
        PhaseName.CODE: settings.code_iterations,
        PhaseName.INTEGRATE: settings.integrate_iterations,
        PhaseName.REPAIR: settings.repair_iterations,
    }
    return iteration_cap(per_phase.get(phase), run_override, settings.max_attempts)
