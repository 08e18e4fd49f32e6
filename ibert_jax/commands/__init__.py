"""What `ibert-jax` can do, one file a command.

Each module has `add(commands)`, which describes its arguments, and `run(args)`, which does the work
and returns the exit code. Nothing heavy is imported before `run`, so that help answers at once.
"""
