"""A fixed set of workloads of different kinds, on which optimizers with one setting for all are compared."""
