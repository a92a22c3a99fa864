-- Move the place of a group that nobody owns past events that it does not want.
-- KEYS: own, stream.  ARGV: nonce, group, most, types that it does not want…
-- Answer: nonce, where it is now, the first type that may be wanted (empty: none), how many were passed
local owner = string.match(redis.call('HGET', KEYS[1], ARGV[2]) or '', '^%d+ (.*)$') or ''
local at, pending
for _, fields in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
  local group = {}
  for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
  if group.name == ARGV[2] then at, pending = group['last-delivered-id'], group.pending end
end
if not at or owner ~= '' or pending > 0 then return {ARGV[1], at or '', '', 0} end
local unwanted = {}
for i = 4, #ARGV do unwanted[ARGV[i]] = true end
local passed, stop = 0, ''
local begin = at
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '(' .. at, '+', 'COUNT', ARGV[3])) do
  local kind = entry[2][1] == 't' and entry[2][2] or 'unknown'
  if not unwanted[kind] then stop = kind; break end
  at, passed = entry[1], passed + 1
end
if at ~= begin then redis.call('XGROUP', 'SETID', KEYS[2], ARGV[2], at) end
return {ARGV[1], at, stop, passed}
