"""How the suite is shared out between the workers of pytest-xdist.

    one file                       one worker: its module's model server, zygote or torch is started once
    the files of COMPUTE           one worker, one after the other, first of all
    the files of LONG              next, as workers come free, the longest first
    everything else                last, in its own order: small pieces, so that no worker is left alone for long

Most of the time tests wait: for processes, for sockets, for a limit to be met. Two workers use the one's waiting for
the other's work. Two computations at once gain nothing on two cores and hold twice the memory.
"""

from __future__ import annotations

from xdist.scheduler.loadfile import LoadFileScheduling

WORKERS = 2
"""Whatever the number of cores: one computes, and the tests of the other one mostly wait. `-n 3` runs more."""
COMPUTE = (
    "tests/contract/test_backend_contract.py",
    "tests/e2e/test_proof_model.py",
    "tests/e2e/test_improve_model.py",
    "tests/unit/training/test_trainer_smollm2.py",
    "tests/unit/inference/test_gguf_logits.py",
    "tests/unit/evolution/test_merging_peft.py",
    "tests/unit/evolution/test_drift_service.py",
    "tests/unit/inference/test_transformers_backend.py",
    "tests/e2e/test_batch_model.py",
    "tests/unit/inference/test_lora_gguf.py",
    "tests/unit/inference/test_merged_gguf.py",
    "tests/unit/inference/test_published_gguf.py",
    "tests/unit/inference/test_llama_backend.py",
    "tests/gpu/test_gpu_vllm.py",
)
"""Whose tests compute on every core, or on the GPU: llama.cpp, torch, vLLM."""
LONG = (
    "tests/reliability/test_handover_crash.py",
    "tests/e2e/test_train_cli.py",
    "tests/reliability/test_registry_model.py",
    "tests/reliability/test_improve_crash.py",
    "tests/e2e/test_proof_scripted.py",
    "tests/reliability/test_kills_jobs.py",
    "tests/reliability/test_device_storm.py",
    "tests/unit/test_house.py",
    "tests/reliability/test_kills_engine.py",
    "tests/e2e/test_batch_scripted.py",
    "tests/e2e/test_improve_cli.py",
    "tests/unit/training/test_trainer_child.py",
    "tests/tui/test_tui_hostile.py",
    "tests/security/test_verdict_forgery.py",
    "tests/security/test_sandbox_attempts.py",
    "tests/reliability/test_guardian_kills.py",
    "tests/security/test_http_token.py",
    "tests/reliability/test_engine_crash.py",
    "tests/unit/training/test_trainer_kill_switch.py",
    "tests/reliability/test_device_simulation.py",
)
"""Half a minute and more."""
FIRST = {path: number for number, path in enumerate((*COMPUTE, *LONG))}


def file_of(nodeid: str) -> str:
    """The test's file, relative to the root."""
    return nodeid.partition("::")[0]


def piece_of(nodeid: str) -> str:
    """What a worker takes as a whole."""
    path = file_of(nodeid)
    return "compute" if path in COMPUTE else path


def rank(nodeid: str) -> int:
    """The place of its file among all; those that are not named are equal."""
    return FIRST.get(file_of(nodeid), len(FIRST))


class Pieces(LoadFileScheduling):
    """xdist's own scheduling by file, but for the files that are one piece."""

    def _split_scope(self, nodeid: str) -> str:
        return piece_of(nodeid)
