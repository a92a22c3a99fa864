"""The parts of `bus_redis.py`: each file one idea.

| file | what it is |
|---|---|
| `load.py` | what a side must do, what its handlers report, the event's size |
| `raw.py`, `peers.py`, `ours.py` | the sides: redis-py by hand; FastStream and taskiq; the bus |
| `measures.py`, `producers.py` | what is measured of every side; who publishes, in this process or another |
| `children.py` | further processes of a case |
| `alone.py` | what is measured of the bus alone: connections, idling, replicas, memory |
| `servers.py` | a redis-server of our own for every case; what Redis itself can do |
| `cases.py`, `runner.py` | which cases there are; one after the other, in fresh processes |
| `report.py` | the tables: ratios, floors, aims |

`peers.py`, and what it imports, runs in the peers' environment, where nothing of the project is installed.
"""
