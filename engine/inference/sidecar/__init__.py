"""The sidecar: a model server in a process of its own, with vLLM's HTTP surface.

    app.py       routes only: HTTP in, `Backend` calls, HTTP out
    wire.py      the bodies of the protocol
    backend.py   what a backend is: plain types, no HTTP
    scripted.py  answers from a script; deterministic
    llamacpp.py  llama.cpp through its C API (llama_*.py, lora_gguf.py)

A further backend is a sibling of the last two.
"""
