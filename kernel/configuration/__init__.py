"""Configuration of plugins: layers, schemas, secrets, and what is set while they run.

`layers.py` joins the layers and tells where each value came from; `schema.py` and `secrets.py` are pure;
`live.py` keeps what is set live; `showing.py` tells and checks, `changing.py` changes.
"""
