"""Thin routes, one file a noun: parse, call one verb, format."""
