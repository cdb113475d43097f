-- runs: what is recorded of a lock's runs, without touching it.
--
-- KEYS[1]  {K}:runs; see claim
--
-- Reply    {'ok', now, {field, value, ...}}
--          {'corrupt', now, {}}     the key is no hash
local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local hash = redis.pcall('HGETALL', KEYS[1])
if hash.err then
  if not string.find(hash.err, 'WRONGTYPE', 1, true) then
    return hash -- an ACL, say: nobody knows what is there
  end
  return {'corrupt', now, {}}
end
return {'ok', now, hash}
