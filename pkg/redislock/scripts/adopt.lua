-- adopt: swaps the token of a grant for another of the same fence, by which one
-- process goes on with the lease of another, or marks its own as stopped.
--
-- KEYS[1]  K, the lock
-- ARGV[1]  the exact token observed
-- ARGV[2]  the token to put in its place
-- ARGV[3]  expiry to reach, ms from now
--
-- Reply    {'ok', pttl, now}
--          {'mismatch', value, now}     value is '' where K is gone or no string
--
-- Invariant: compare-and-swap on the exact value, so that a late duplicate of a
-- dead process cannot oust its successor. Never creates K, never shortens its
-- expiry.
local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local current = redis.pcall('GET', KEYS[1])
if type(current) == 'table' and not string.find(current.err, 'WRONGTYPE', 1, true) then
  return current -- an ACL, say: nobody knows what is there
end
if type(current) == 'table' or not current then
  return {'mismatch', '', now}
end
if current ~= ARGV[1] and current ~= ARGV[2] then
  return {'mismatch', current, now}
end
local pttl = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[3]))
redis.call('SET', KEYS[1], ARGV[2], 'PX', pttl)
return {'ok', pttl, now}
