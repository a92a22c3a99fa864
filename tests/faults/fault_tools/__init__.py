"""What the Redis and fault tests stand on: real servers, and a proxy that breaks things on the way."""
