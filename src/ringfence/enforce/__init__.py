"""Render, plan and apply rule sets in a network namespace. Empty until enforcement is built."""
