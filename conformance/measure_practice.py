"""Run `studies.practice` under the earlier name `python -m conformance.measure_practice`."""

from .studies.practice import main

if __name__ == "__main__":
    main()
