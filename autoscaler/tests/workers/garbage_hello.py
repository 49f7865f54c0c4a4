"""Prints what any program may print before it gets to work."""

print("Welcome to Python!\x1b[31m", flush=True)
input()
