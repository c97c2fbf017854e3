"""A meta-trained learner in a few lines of Python."""
