"""Packages and advisories become findings. Empty until image scanning is built."""
