"""Run `conformance.pages` under the earlier name `python -m conformance.defects.page`."""

from ..pages.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
