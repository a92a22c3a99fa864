-- Become the owner of one group in one partition, if it belongs to whom we think.
-- KEYS: own, tally.  ARGV: nonce, group, replica, the owner as we know it (empty: nobody), and how often it had
--       come back by then
-- Answer: nonce, `ok`, the fence, whether the former owner left it in order (1) or not (0);
--         `owned`, who owns it, and how often that one has come back after it was taken for gone.
redis.call('HDEL', KEYS[1], '')  -- passes when memory is full, and after it the rest does
local known = redis.call('HGET', KEYS[1], ARGV[2]) or ''
local epoch, owner = string.match(known, '^(%d+) (.*)$')
local renewed = redis.call('HGET', KEYS[2], 'own:renewed') or ''
if known ~= '' and owner ~= '' and (known ~= ARGV[4] or renewed ~= ARGV[5]) then
  return {ARGV[1], 'owned', known, renewed}
end
local fence = string.format('%.0f %s', tonumber(epoch or 0) + 1, ARGV[3])
redis.call('HSET', KEYS[1], ARGV[2], fence)
return {ARGV[1], 'ok', fence, (owner or '') == '' and 1 or 0}
