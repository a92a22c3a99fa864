-- A replica shows that it is there, and looks who else is.
-- KEYS: replicas.  ARGV: nonce, replica, incarnation, record (it begins with the incarnation and a space)
-- Answer: nonce, 1 if it was there already (0: it is new, or was taken for gone; -1: the name is another's now),
--         milliseconds of the server's clock, all replicas and their records
redis.call('HDEL', KEYS[1], '')  -- passes when memory is full, and after it the rest does
local known = redis.call('HGET', KEYS[1], ARGV[2])
local was = 0
if known then was = string.find(known, ARGV[3] .. ' ', 1, true) == 1 and 1 or -1 end
if was >= 0 then redis.call('HSET', KEYS[1], ARGV[2], ARGV[4]) end
local clock = redis.call('TIME')
return {ARGV[1], was, clock[1] * 1000 + math.floor(clock[2] / 1000), redis.call('HGETALL', KEYS[1])}
