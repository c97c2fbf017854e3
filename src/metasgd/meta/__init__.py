"""The inner loop, its exact gradient, and how the tasks of a meta-batch are distributed."""
