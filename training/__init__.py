"""Train the small model of the package. No other folder needs this one, nor does the wheel."""
