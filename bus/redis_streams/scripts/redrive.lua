-- Put dead letters back to the group that failed, through its lot, so that their keys wait for them.
-- KEYS: dead, lot, slips, again.  ARGV: nonce, then entry of the dead letter, name in the lot, slip, message (in fours)
-- Answer: nonce, how many
local count = 0
for at = 2, #ARGV, 4 do
  if redis.call('XDEL', KEYS[1], ARGV[at]) == 1 then
    redis.call('HSET', KEYS[2], ARGV[at + 1], ARGV[at + 3])
    redis.call('HSET', KEYS[3], ARGV[at + 1], ARGV[at + 2])
    redis.call('RPUSH', KEYS[4], ARGV[at + 1])
    count = count + 1
  end
end
return {ARGV[1], count}
