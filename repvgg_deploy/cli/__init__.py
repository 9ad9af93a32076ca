"""The command line: a file for each command and for what they share, one error boundary."""
