"""A Kubernetes-shaped cluster of network namespaces on one machine, for the demo and for tests.

Comes in: manifests and a topology. Goes out: running pods, services, probes, and an HTTP server that
lists and watches exactly these objects. Refuses to know: agents, servers, flows.
"""
