"""The HTTP API: one module for each noun; `guards` stands before all of them, `problems` is how each of them fails."""
