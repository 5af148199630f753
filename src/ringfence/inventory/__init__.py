"""Changes become intervals: who had this address, name and label at that time.

Comes in: `model.objects` with the time they became true and known. Goes out: endpoint versions by
(cluster, address, time). Refuses to know: how Kubernetes spells its objects, or how they arrived.
"""
