"""Other people's flows: logs of Zeek, Hubble, Calico, NetObserv and clouds, NetFlow, IPFIX and sFlow, into the same columns.

Each format's module decodes to records, `pair` makes flows of records, `read` finds out what a file is. The room is pure:
whoever calls opens the file. What a format cannot know stays unknown, and is shown as null.
"""
