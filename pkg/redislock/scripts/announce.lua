-- announce: notes that somebody would take the lock, and says who else would.
--
-- KEYS[1]  {K}:candidates, a hash of '<since us> <until us>' by name
-- ARGV[1]  name; '' = only read
-- ARGV[2]  us for which the announcement counts
--
-- Reply    {'ok', now, {name, since, ...}}
--          {'corrupt', now, {}}     the key is no hash
--
-- Invariant: an announcement lapses by the server's time. 'since' stays while
-- the announcements of a name do not. Reading writes nothing.
local YEAR = 366 * 24 * 3600 * 1e6

local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local hash = redis.pcall('HGETALL', KEYS[1])
if hash.err then
  if not string.find(hash.err, 'WRONGTYPE', 1, true) then
    return hash -- an ACL, say: nobody knows what is there
  end
  return {'corrupt', now, {}}
end
local present, lapsed = {}, {}
local name, since, till = ARGV[1], now, now + ARGV[2]
for i = 1, #hash, 2 do
  local from, to = string.match(hash[i + 1], '^(%d+) (%d+)$')
  from, to = tonumber(from), tonumber(to)
  local counts = from and to > now and to <= now + 2 * YEAR
  if hash[i] == name then
    if counts then
      since, till = from, math.max(till, to)
    end
  elseif counts then
    table.insert(present, hash[i])
    table.insert(present, from)
  else
    table.insert(lapsed, hash[i])
  end
end
if name == '' then
  return {'ok', now, present}
end

redis.call('HSET', KEYS[1], name, string.format('%.0f %.0f', since, till))
for _, field in ipairs(lapsed) do
  redis.call('HDEL', KEYS[1], field)
end
local expiry = math.ceil((till - now) / 1000)
if redis.call('PTTL', KEYS[1]) < expiry then
  redis.call('PEXPIRE', KEYS[1], expiry)
end
table.insert(present, name)
table.insert(present, since)
return {'ok', now, present}
