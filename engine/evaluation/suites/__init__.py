"""Suites: tasks whose answer is checked by running it, and what proves that they are worth it."""
