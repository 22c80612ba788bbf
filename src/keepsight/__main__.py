"""``python -m keepsight`` is the command ``keepsight``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
