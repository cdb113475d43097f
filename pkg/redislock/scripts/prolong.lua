-- prolong: renew for a permit or a read lock.
--
-- KEYS[1]  K, the lock
-- ARGV[1]  the whole token of the grant
-- ARGV[2]  expiry to reach, ms from now
--
-- Reply    2                       ok
--          {'mismatch', value}     value is '' where K is no string
--
-- Invariant: a grant that has lapsed is not brought back, though its token may still
-- be in the set; no expiry gets shorter.
local t = redis.call('TIME')
local ms = t[1] * 1e3 + math.floor(t[2] / 1e3)

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' then
  return {'mismatch', kind == 'string' and redis.call('GET', KEYS[1]) or ''}
end
local till = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if till <= ms then
  return {'mismatch', ''}
end
local want = math.max(till, ms + ARGV[2])
local last = tonumber(redis.call('ZRANGE', KEYS[1], -2, -2, 'WITHSCORES')[2])
-- The key first: a Redis that is out of memory refuses ZADD, but not to a script that
-- has written.
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.max(last, want)))
redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', want), ARGV[1])
return 2
