-- renew: moves the expiry of a lock further away.
--
-- KEYS[1]  K, the lock
-- ARGV[1]  the whole token of the grant
-- ARGV[2]  expiry to reach, ms from now
--
-- Reply    {'ok', pttl, now}
--          {'mismatch', value, now}     value is '' where K is gone or no string
--
-- Invariant: never creates K, never shortens its expiry. PEXPIRE ... GT would do
-- it in one call on Redis 7; the comparison here works on every version, and
-- repairs a K that lost its expiry to a PERSIST.
local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local current = redis.pcall('GET', KEYS[1])
if type(current) == 'table' and not string.find(current.err, 'WRONGTYPE', 1, true) then
  return current -- an ACL, say: nobody knows what is there
end
if type(current) == 'table' or not current then
  return {'mismatch', '', now}
end
if current ~= ARGV[1] then
  return {'mismatch', current, now}
end
local pttl = redis.call('PTTL', KEYS[1])
local want = tonumber(ARGV[2])
if pttl < want then
  redis.call('PEXPIRE', KEYS[1], want)
  pttl = want
end
return {'ok', pttl, now}
