"""Random changes of a task's pictures."""
