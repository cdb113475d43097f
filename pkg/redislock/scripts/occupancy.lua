-- occupancy: who shares a lock and how many wait for it, without touching it.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:places
--
-- Reply    {kind, limit, now, waiting, {token, ttl, ...}}
--          kind: what stands at K, as in the reply of queued; limit: that of permits,
--          otherwise 0; waiting: places that have not lapsed; ttl of each grant, ms,
--          in the order in which they lapse
local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]
local ms = math.floor(now / 1000)
local after = '(' .. string.format('%.0f', ms)

local waiting = 0
if redis.call('TYPE', KEYS[2]).ok == 'zset' then
  waiting = redis.call('ZCOUNT', KEYS[2], after, '+inf')
end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'string' then
  kind = 'lock'
end
if kind ~= 'zset' then
  return {(kind == 'none' or kind == 'lock') and kind or 'other', 0, now, waiting, {}}
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
local limit = string.match(last[1], '^~permits (%d+)$')
if last[2] ~= 'inf' or last[1] ~= '~readers' and not limit then
  return {'other', 0, now, waiting, {}}
end
local grants = redis.call('ZRANGEBYSCORE', KEYS[1], after, '(inf', 'WITHSCORES')
for i = 2, #grants, 2 do
  grants[i] = grants[i] - ms
end
return {limit and 'permits' or 'readers', tonumber(limit or 0), now, waiting, grants}
