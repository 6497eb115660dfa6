"""The trainer child: one LoRA adapter from one data file: `python -m engine.training.qlora SPEC.json`.

    LOADING ──► STEPPING ⇄ EVALUATING ──► PUBLISHING ──► 0
       │            │ ▲
       │            ▼ │
       │        CHECKPOINT          TERM: checkpoint of the last whole step ──► 75
       │
       └─ from each: not valid, diverged ──► 70; no memory for one sequence ──► 71

The loop is our own and not `transformers.Trainer`, for four reasons: its checkpoints are pickles, and no pickle is
read here; memory that runs out in the middle of a step must halve the micro-batch without losing or repeating a
sequence; a resumed run must end with the same bytes; and the output layer, a fifth of a small model's arithmetic, is
computed for answer tokens alone. The models, the quantization and LoRA are those of transformers, bitsandbytes and
PEFT.

Only `__main__` is imported from outside this package; torch is imported nowhere else in `engine.training`.
"""
