"""Set-ups that make runs: each a frozen configuration and a function that reads top to bottom."""
