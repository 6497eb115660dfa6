"""How far an adapter moves the base model on ordinary text: perplexity and KL divergence, measured by a child process.

`service` is the engine's side, `__main__` the child's; `figures` is the arithmetic, `model` the only module with torch.
"""
