-- Say that the owner of one group in one partition lives, though it was taken for gone.
-- Whoever has judged it, and is about to take the partition over, must look again: see `take`.
-- KEYS: own, tally.  ARGV: nonce, group, fence
-- Answer: nonce, `ok`; `lost` and who owns it
redis.call('HDEL', KEYS[1], '')  -- passes when memory is full, and after it the rest does
local known = redis.call('HGET', KEYS[1], ARGV[2])
if known ~= ARGV[3] then return {ARGV[1], 'lost', known} end
redis.call('HINCRBY', KEYS[2], 'own:renewed', 1)
return {ARGV[1], 'ok'}
