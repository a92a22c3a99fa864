"""Configuration of plugins: layers, schemas, secrets, and what is set while they run.

`layers.py` joins the layers and tells where each value came from. Pure are `schema.py`, `secrets.py`,
`variables.py`, and `places.py`, which they ask what a schema says about one key. `live.py` keeps what is set
live, `migration.py` has it lifted to a newer version, `differences.py` tells what a change was; `showing.py`
tells and checks, `changing.py` changes.
"""
