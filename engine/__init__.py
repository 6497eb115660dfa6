"""The engine: one asyncio process that owns the model server, the sandbox and the state of one RUNE_HOME.

    HTTP over a 0600 Unix socket                             server, routes/
                 │
              core.Engine            one lock, one database, one task group; gives back in reverse order
      ┌──────────┼───────────────────────────┐
    runner     work                        recovery          what a dead engine left behind
      │          │ built at the first session
      │        pipeline/  ── inference/ ──► model server (child process, one protocol: sidecar or vLLM)
      │          │        ── evaluation/ ─► judge: decides outside the process that runs generated code
      │          │        ── sandbox/ ────► generated code, isolated at a level that is always shown
      │        training/trajectories        every attempt, whole
      ▼
    sessions ─► jobs ─► events ─► registry.db    a change and its event are one transaction of one SQLite file

Who owns what: `jobs` the state of a run, `sessions` its task and results, `events` the log, `runner` the tasks that
run now, `work` the model server and the judge, `registry` the adapters. Nobody writes what another owns.

A state change goes: caller -> one transaction (row + event) -> commit -> bus -> every client, in commit order. A
client that is too slow reads on from the log, so none is lost. Torch and llama.cpp are never imported here: models
live in children, so that killing one is how memory is freed.
"""
