"""The engine: one asyncio process that owns the model server, the sandbox and the state of one RUNE_HOME.

    HTTP over a 0600 Unix socket                             server, routes/
                 │
              core.Engine            one lock, one database, one task group; gives back in reverse order
      ┌──────────┼───────────────────────────┐
    runner     workshop                    recovery
      │        pipeline/  ── inference/ ──► model server (child process, one protocol: sidecar or vLLM)
      │          │        ── evaluation/ ─► judge: decides outside the process that runs generated code
      │          │        ── sandbox/ ────► generated code, isolated at a level that is always shown
      │        training/                    every attempt, whole
      ▼
    sessions ─► jobs ─► events ─► registry.db    a change and its event are one transaction of one SQLite file

High to low; nothing imports what stands above it (import-linter checks that):

    __main__    `python -m engine`: one engine in the foreground, and its exit code
    server      the sockets, the token of TCP; `routes/`: what is asked there, and the guards before it
    core        Engine: opens, wires and closes the parts
    workshop    what a session is worked on with: model server, judge, prompts; what a session's end means
    recovery    clears away what a dead engine left in `run/`
    pipeline/   from a task to a verified program: phases and attempts in LangGraph, resumable at every step
    training/   trajectories: the attempts
    evaluation/ the judge: verdicts that generated code cannot forge; metrics with intervals
    inference/  the one client, the model server's life, `sidecar/`: our model server
    sandbox/    runs one program, isolated; finds out how well this machine can
    runner      runs queued sessions, so many at a time, and settles how each of them ended
    sessions    a task, how far it is, what came of it
    jobs        the durable queue: claim, fence, recover
    device/     what this machine has
    home        the home's folders, its socket's place, its lock
    logs        the engine's log
    config      config.toml as frozen models
    events      the journal, the bus, and the way to join both without gap or repeat
    errors      one error tree, with exit codes and HTTP statuses
    api_models  the data that crosses the API: all that the terminal knows of the engine

Each piece of state has one owner: `jobs` the state of a run, `sessions` its task and results, `events` the log,
`runner` the tasks that run now, `workshop` the model server and the judge, `registry` the adapters.

A state change goes: caller -> one transaction (row + event) -> commit -> bus -> every client, in commit order. A
client that is too slow reads on from the log, so none is lost. Torch and llama.cpp are never imported here: models
live in children, so that killing one is how memory is freed.
"""
