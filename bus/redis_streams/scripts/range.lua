-- Read a stream beside all groups.  KEYS: stream.  ARGV: nonce, behind which entry, up to which, most
-- Answer: nonce, entries
return {ARGV[1], redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], ARGV[3], 'COUNT', ARGV[4])}
