"""Networks that others made and trained, with one of our heads."""
