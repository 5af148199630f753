"""Search: questions in CEL about settled flows become SQL over `ringfence.flows` and `ringfence.endpoints`.

Comes in: the text of an expression, a time, who may be seen. Goes out: SQL whose every value is a typed parameter.
Refuses to know: HTTP, rights, and how flows are settled.
"""
