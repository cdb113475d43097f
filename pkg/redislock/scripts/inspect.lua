-- inspect: what is at a lock, without touching it.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:fence
-- KEYS[3]  {K}:metadata; may be left out
--
-- Reply    {kind, value, pttl, fence, now, metadata}
--          kind 'none', 'string' or 'other'; fence '' where none is stored;
--          metadata, for a string only, is what KEYS[3] holds, if anything
local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local fence = redis.pcall('GET', KEYS[2])
if type(fence) == 'table' or not fence then
  fence = ''
end
local current = redis.pcall('GET', KEYS[1])
if type(current) == 'table' then
  if not string.find(current.err, 'WRONGTYPE', 1, true) then
    return current -- an ACL, say: nobody knows what is there
  end
  return {'other', '', redis.call('PTTL', KEYS[1]), fence, now}
end
if not current then
  return {'none', '', -2, fence, now}
end
local metadata = KEYS[3] and redis.pcall('GET', KEYS[3])
return {'string', current, redis.call('PTTL', KEYS[1]), fence, now, type(metadata) == 'string' and metadata or nil}
