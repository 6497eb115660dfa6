"""Inference: one client (`openai_client`), one protocol, and the model servers that speak it (`sidecar`).

`provider` is what the rest of the engine sees; `launch` owns the child process; `factory` builds clients.
Nothing here but `sidecar` imports a model library, and `sidecar` runs in a process of its own.
"""
