"""Kubernetes objects become `model.objects`: list, watch, manifests on disk.

Comes in: JSON or YAML. Goes out: changes with their time. `decode` is pure.
Refuses to know: flows, stores, what the changes are for.
"""
