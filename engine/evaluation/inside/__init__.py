"""Programs that run inside the sandbox: standard library only, never imported by the engine's own logic.

`subject` runs generated code, `judge_main` runs given tests against it through `proxy`, `together` runs both in one
process. `wire` is what they speak. The directory is bound read-only into the sandbox and loaded under another name,
so a project file called like one of these modules cannot stand in for it.
"""
