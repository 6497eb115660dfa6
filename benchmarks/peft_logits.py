"""The other side of `benchmarks.gguf`: logits by transformers and PEFT, in a process that has torch.

    python -m benchmarks.peft_logits JOBS.json OUT.npz

JOBS: `[{"key", "model", "adapter": folder or null, "ids": [...]}, ...]`; OUT: for each key an array (ids, vocabulary)
in float32. A job with `texts` in place of `ids` gives token ids: `key/0`, `key/1`, ... of each text, and `key/chat`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

Arrays = dict[str, np.ndarray[Any, Any]]


def logits(job: dict[str, Any]) -> Arrays:
    """Of every token of the prompt."""
    model: Any = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32, local_files_only=True)
    if job["adapter"] is not None:
        model = PeftModel.from_pretrained(model, job["adapter"])
    with torch.inference_mode():
        found = model.eval()(torch.tensor([job["ids"]])).logits[0]
    return {job["key"]: found.numpy()}


def tokens(job: dict[str, Any]) -> Arrays:
    """Of the texts, and of a chat by the model's template."""
    tokenizer: Any = AutoTokenizer.from_pretrained(job["model"], local_files_only=True)
    chat = tokenizer.apply_chat_template(job["chat"], add_generation_prompt=True, tokenize=True, return_dict=False)
    key = job["key"]
    arrays = {f"{key}/{at}": np.array(tokenizer(text).input_ids) for at, text in enumerate(job["texts"])}
    return arrays | {f"{key}/chat": np.array(chat)}


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    results: Arrays = {}
    for job in jobs:
        results |= tokens(job) if "texts" in job else logits(job)
    np.savez(sys.argv[2], **results)


if __name__ == "__main__":
    main()
