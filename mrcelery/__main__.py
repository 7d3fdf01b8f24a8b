"""``python -m mrcelery``."""

from __future__ import annotations

from mrcelery.cli.main import main

if __name__ == "__main__":
    main()
