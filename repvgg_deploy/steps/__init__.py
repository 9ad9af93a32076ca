"""What each command does, as functions: they take values, call the stages, and return results."""
