"""python -m wl.simulate"""
try:
    from .simulate import command
except ImportError as error:
    raise SystemExit(f"error: {error}; use the Python of a .venv as the README makes it") from None

command()
