"""Other people's flows: Zeek, Hubble, Calico, NetObserv and cloud flow logs, into the same columns.

Pure halves (`zeek`, `hubble`, `calico`, `netobserv`, `vpc`) decode lines to records; `pair` makes flows of records;
`read` opens files and finds out what they are. What a format cannot know stays unknown, and is shown as null.
"""
