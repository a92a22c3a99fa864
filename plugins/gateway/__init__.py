"""The web edge, a plugin like any other: FastAPI and uvicorn. See README.md."""
