"""Ingest, inventory, answers: the API. Owns a clock. `app` does all the wiring, by hand."""
