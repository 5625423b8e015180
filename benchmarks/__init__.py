"""How fast and how small cosemzoo is, next to what else loads the same network: ``python -m benchmarks``.

Everything is measured in one run on one machine, the contestants in turn, and said as ratios. The weights are
generated numbers in the shapes of a COSEM network.
"""
