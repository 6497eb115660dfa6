"""How adapters evolve: what a promotion rests on, when adapters are merged and pruned, and the sweeps that do it."""
