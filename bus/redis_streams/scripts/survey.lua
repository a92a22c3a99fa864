-- What everybody must know of the bus.
-- KEYS: meta, topics, groups, replicas.  ARGV: nonce
-- Answer: nonce, incarnation (empty: the namespace is new), topics, groups, replicas
return {ARGV[1], redis.call('HGET', KEYS[1], 'incarnation') or '', redis.call('HGETALL', KEYS[2]),
  redis.call('HGETALL', KEYS[3]), redis.call('HGETALL', KEYS[4])}
