"""A learned optimizer as a ``torch.optim.Optimizer``."""
