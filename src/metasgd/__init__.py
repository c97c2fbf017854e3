"""Meta-train a network together with the optimizer that will train it."""
