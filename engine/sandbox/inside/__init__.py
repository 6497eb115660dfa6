"""What runs inside the sandbox before the program does: standard library only, imported flat by `stage2.py`."""
