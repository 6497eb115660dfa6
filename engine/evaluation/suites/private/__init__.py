"""Private APIs that no model has seen: each module is a library of a suite, given to the solution as it stands here."""
