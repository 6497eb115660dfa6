"""Model servers under the owner of the device: one common part, and what each backend does its own way.

    catalogue ── makes ──► ProcessServer (process.py) ── asks ──► Recipe: sidecars.py, vllm_server.py
                    └────► OllamaServer (ollama_server.py): a server that is not ours
    ProcessServer ── starts its child under a guardian ──► engine.device.guarded

Everything here is called by the device's one loop; nothing starts, sleeps or wakes by itself.
"""
