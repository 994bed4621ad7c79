"""Run `conformance.pages.badge` under the earlier name `python -m conformance.badge`."""

from .pages.badge import main

if __name__ == "__main__":
    raise SystemExit(main())
