"""The node agent: drains taps, folds them into sightings, ships them.

`step` is its mind (pure), `main` the only place that performs. Owns a clock.
Imports only model, flows, capture, wire, enforce.
"""
