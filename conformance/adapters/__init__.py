"""The adapters that come with the suite."""
