"""What `trainer_zygote` runs beside whole trainers: looks into the trainer with torch, answers in JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.training.qlora.data import IGNORED, Encoder, Example, read_dataset
from engine.training.qlora.greedy import Greedy
from engine.training.qlora.loss import AnswerLoss
from engine.training.qlora.memory import is_out_of_memory
from engine.training.qlora.model import Learner, load_learner, load_tokenizer
from engine.training.spec import DataRow, read_spec

CPU = torch.device("cpu")


def encode(spec: str, row: dict[str, Any]) -> dict[str, Any]:
    """One row through the real tokenizer and its template."""
    tokenizer: Any = load_tokenizer(read_spec(Path(spec)))
    encoder = Encoder(tokenizer)
    example = encoder.encode(DataRow.model_validate(row))
    learned = [token for token, label in zip(example.tokens, example.labels, strict=True) if label != IGNORED]
    return {
        "prompt": tokenizer.decode(example.tokens[: example.prompt]),
        "learned": tokenizer.decode(learned),
        "labels": example.labels,
        "tokens": list(example.tokens),
        "last": tokenizer.convert_ids_to_tokens(example.tokens[-1]),
        "answer": example.answer,
    }


def _load(spec: str) -> tuple[Learner, list[Example], int]:
    job = read_spec(Path(spec))
    torch.manual_seed(job.seed)
    encoder = Encoder(load_tokenizer(job))
    data = read_dataset(job.data, encoder, job.recipe.max_tokens)
    learner = load_learner(job)
    with torch.no_grad():
        for name, parameter in learner.parameters.items():
            if ".lora_B." in name:  # zero at first: a fresh adapter changes nothing and would hide a mistake
                parameter.normal_(std=0.05)
    return learner, list(data.train), encoder.end_of_turn


def losses(spec: str) -> dict[str, float]:
    """Our loss of a padded batch against transformers' own, with attention mask and labels."""
    learner, examples, padding = _load(spec)
    model = learner.model.get_base_model()
    width = max(len(example.tokens) for example in examples)
    tokens = torch.full((len(examples), width), padding)
    mask = torch.zeros_like(tokens)
    labels = torch.full_like(tokens, IGNORED)
    for row, example in enumerate(examples):
        size = len(example.tokens)
        tokens[row, :size] = torch.tensor(example.tokens)
        mask[row, :size] = 1
        labels[row, :size] = torch.tensor(example.labels)
    answers = sum(example.answer for example in examples)
    with torch.no_grad():
        theirs = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
        everything = model(input_ids=tokens, attention_mask=mask, labels=tokens.where(mask == 1, IGNORED)).loss
        ours = AnswerLoss(model, CPU, padding)(examples) / answers
    return {"ours": float(ours), "theirs": float(theirs), "with_prompt": float(everything)}


def kept(spec: str) -> dict[str, float]:
    """Loss of examples that are kept, against KL(base || adapted) of each alone by whole forward passes."""
    learner, examples, padding = _load(spec)
    model, adapted = learner.model.get_base_model(), learner.model
    few = examples[:3]
    theirs = 0.0
    with torch.no_grad():
        for example in few:
            tokens, answer = torch.tensor([example.tokens]), slice(example.prompt - 1, len(example.tokens) - 1)
            own = model(input_ids=tokens).logits[0, answer].log_softmax(-1)
            with adapted.disable_adapter():
                base = model(input_ids=tokens).logits[0, answer].log_softmax(-1)
            theirs += float((base.exp() * (base - own)).sum())
    loss = AnswerLoss(model, CPU, padding, adapted.disable_adapter)
    hold = [replace(example, keep=True) for example in few]
    ours = loss(hold)
    ours.backward()
    norm = sum(float(parameter.grad.norm()) for parameter in learner.parameters.values() if parameter.grad is not None)
    with torch.no_grad():
        learned, mixed = loss(examples[3:6]), loss([*hold, *examples[3:6]])
        for name, parameter in learner.parameters.items():
            if ".lora_B." in name:
                parameter.zero_()
        at_base = loss(hold)
    return {
        "ours": float(ours),
        "theirs": theirs,
        "gradient": norm,
        "learned": float(learned),
        "mixed": float(mixed),
        "at_base": float(at_base),
    }


def greedy(spec: str, prompts: list[str], max_tokens: int) -> dict[str, list[list[int]]]:
    """Answers of all prompts at once, by our loop, and of each alone, by transformers' own."""
    learner, _, end = _load(spec)
    tokenizer: Any = load_tokenizer(read_spec(Path(spec)))
    model = learner.model.get_base_model()
    AnswerLoss(model, CPU, end)  # its hook is there in a trainer, and must not be in the way
    learner.train(False)
    asked = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    ours = Greedy(model, CPU, frozenset({end}), lambda: None).answer(asked, max_tokens)
    options = {"do_sample": False, "max_new_tokens": max_tokens, "eos_token_id": end, "pad_token_id": end}
    theirs: list[list[int]] = []
    for tokens in asked:
        written = model.generate(torch.tensor([tokens]), **options)[0, len(tokens) :].tolist()
        theirs.append(written[: written.index(end)] if end in written else written)
    return {"ours": [list(one.tokens) for one in ours], "theirs": theirs}


def micro_batches(spec: str, sizes: list[int]) -> dict[str, Any]:
    """Gradients of one batch of 8, cut into micro-batches of each size; and of a mean of means, which is wrong."""
    learner, examples, padding = _load(spec)
    loss = AnswerLoss(learner.model.get_base_model(), CPU, padding)
    batch = examples[:8]
    answers = sum(example.answer for example in batch)

    def gradient(size: int, weigh: bool = True) -> torch.Tensor:
        for parameter in learner.parameters.values():
            parameter.grad = None
        pieces = [batch[start : start + size] for start in range(0, len(batch), size)]
        for piece in pieces:
            share = answers if weigh else len(pieces) * sum(example.answer for example in piece)
            (loss(piece) / share).backward()
        return torch.cat([p.grad.flatten() for p in learner.parameters.values() if p.grad is not None])

    whole = gradient(8)
    return {
        "norm": float(whole.norm()),
        "off": [float((gradient(size) - whole).norm() / whole.norm()) for size in sizes],
        "mean_of_means": float((gradient(2, weigh=False) - whole).norm() / whole.norm()),
    }


def quantized(spec: str) -> dict[str, Any]:
    """How the base is held, and what an evaluation does to it."""
    import bitsandbytes

    learner, examples, padding = _load(spec)
    model = learner.model.get_base_model()
    linears = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    loss = AnswerLoss(model, CPU, padding)
    learner.train(False)
    with torch.no_grad():
        first = float(loss(examples[:4]))
    learner.train(True)
    loss(examples[:4]).backward()
    learner.train(False)
    with torch.no_grad():
        second = float(loss(examples[:4]))
    return {
        "four_bit": len(linears),
        "types": sorted({module.weight.quant_state.quant_type for module in linears}),
        "nested": all(module.weight.quant_state.nested for module in linears),
        "adapter": sorted({str(parameter.dtype) for parameter in learner.parameters.values()}),
        "trainable": sum(p.requires_grad for p in learner.model.parameters()) == len(learner.parameters),
        "compute": learner.compute,
        "evaluations": [first, second],
    }


def published_loss(spec: str) -> float:
    """The held-out loss of base + published adapter, loaded by PEFT itself and computed by transformers itself."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = read_spec(Path(spec))
    data = read_dataset(job.data, Encoder(load_tokenizer(job)), job.recipe.max_tokens)
    base = AutoModelForCausalLM.from_pretrained(job.base_directory, dtype=torch.float32, local_files_only=True)
    model = PeftModel.from_pretrained(base, str(job.output)).eval()
    total, answers = 0.0, 0
    with torch.no_grad():
        for example in data.held_out:
            labels = torch.tensor([example.labels])
            total += float(model(input_ids=torch.tensor([example.tokens]), labels=labels).loss) * example.answer
            answers += example.answer
    return total / answers


def memory_errors() -> list[bool]:
    """Real errors: the CPU's allocator, the GPU's class, Python's, and one that is something else."""
    found: list[bool] = []
    try:
        torch.empty(1 << 60, dtype=torch.uint8)
    except RuntimeError as error:
        found.append(is_out_of_memory(error))
    others = (
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("shape mismatch"),
        ValueError(),
    )
    return found + [is_out_of_memory(error) for error in others]
