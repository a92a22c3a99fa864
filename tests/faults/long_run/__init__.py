"""A long run with kills: processes that publish and handle, an adversary, and one judge for every system.

`plan`, `witness`, `publishing` and `faststream_side` need the standard library alone (and their own client):
they also run in the environment of the system that is compared.
"""
