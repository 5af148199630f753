"""A real Kubernetes on one machine, for tests and for trying things out. Not part of the shipped package.

`python3 -m testbed up` from the root of the checkout; needs root for nodes, Go for the first build, and nothing but
the standard library. Every other file does one step of it: `binaries` and `debian` fill the cache, `images` makes the
containers' images, `pki` certificates and kubeconfigs, `processes` starts and stops what is recorded, `control` is the
control plane, `nodes` the nodes.
"""
