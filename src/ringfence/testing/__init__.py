"""Builders and fakes for tests, shipped so that others can test against Ringfence too."""
