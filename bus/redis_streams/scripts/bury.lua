-- Add dead letters of elsewhere.  KEYS: dead.  ARGV: nonce, most, then meta and message in turn
-- Answer: nonce, how many had to go for them
local dropped = 0
for at = 3, #ARGV, 2 do redis.call('XADD', KEYS[1], '*', 'm', ARGV[at], 'p', ARGV[at + 1]) end
if redis.call('XLEN', KEYS[1]) > tonumber(ARGV[2]) then
  dropped = redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[2])
end
return {ARGV[1], dropped}
