-- Change a field of a hash if it is still as it was read, and tell everybody.
-- KEYS: hash, news.  ARGV: nonce, field, what was read (empty: nothing), what it shall be (empty: nothing), what is told
-- Answer: nonce, 1 if it was done, else 0
redis.call('HDEL', KEYS[1], '')  -- passes when memory is full, and after it the rest does
local known = redis.call('HGET', KEYS[1], ARGV[2]) or ''
if known ~= ARGV[3] then return {ARGV[1], 0} end
if ARGV[4] == '' then redis.call('HDEL', KEYS[1], ARGV[2])
else redis.call('HSET', KEYS[1], ARGV[2], ARGV[4]) end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 1000, '*', 'k', ARGV[5])
return {ARGV[1], 1}
