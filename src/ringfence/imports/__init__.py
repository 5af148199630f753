"""Other people's flows into the same columns. Empty until imports are built."""
