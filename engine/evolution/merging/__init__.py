"""Merging LoRA adapters, and what needs the same arithmetic: their cosines, and random adapters of equal norm.

The arithmetic runs in a child process (`python -m engine.evolution.merging SPEC.json`), so that its memory is given
back and the engine's event loop never waits for it. `spec` is shared by both sides; `service` is the engine's side;
everything else is the child's.

    factors ─► core_space | delta_space ─► rules ─► compress ─► output
     read       small matrices | dense       TIES,    rank r      a plain PEFT adapter
     checked    per module     one a time    DARE...

An adapter adds D = s B A to a module's weights, so D is what is merged. B and A apart are never averaged: their
product would hold the cross terms of parents that have nothing to do with each other.
"""
