"""What produces every figure that README prints: `python -m benchmarks.<name>`."""
