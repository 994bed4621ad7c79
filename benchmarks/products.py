"""Run `benchmarks.matrix_products` under its earlier name."""

from .matrix_products import main

if __name__ == "__main__":
    main()
