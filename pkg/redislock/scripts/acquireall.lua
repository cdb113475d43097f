-- acquireall: grants several locks in one step, or none of them, each with a
-- fencing token of its own.
--
-- KEYS     for each lock its four keys, as in acquire: K, {K}:fence, {K}:metadata,
--          {K}:history
-- ARGV[1]  attempt: the token of every lock up to and including its last '#'
-- ARGV[2]  expiry of each K, ms
-- ARGV[3]  notAfter: server time in us after which this request is void; 0 = unknown
-- ARGV[4]  expiry of the companion keys, ms
-- ARGV[5]  length of the histories; 0 = none is kept
-- ARGV[6]  metadata of each grant; '' = they have none
-- ARGV[7]  and on, two for each lock: seen, the highest fencing token the caller
--          remembers, and forgiven, the `seen` for which its quarantine was sat out
--
-- Reply    {'granted', {fence, ...}, pttl, now}
--          {'again',   {fence, ...}, pttl, now}      this attempt was granted before;
--                                                    pttl is the shortest
--          {'held',    value, pttl, now, i, metadata}   lock i is in the way; see
--                                                       acquire for the rest
--          {'late',    '',    0, now}
--          {'corrupt', which, 0, now, i}
--          {'amnesia', {i, stored, ...}, 0, now}     every lock of which it is true
--
-- Invariant: that of acquire for each lock, and all of them or none. Of an attempt
-- that was granted and has lost a lock since, the rest is in the way like anybody
-- else's: a request that is delivered late must not take the lock back.
local YEAR = 366 * 24 * 3600 * 1e6

local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]
local n = #KEYS / 4

local fences, shortest, others, own = {}, nil, nil, nil
for i = 1, n do
  local k = KEYS[4 * i - 3]
  local current = redis.pcall('GET', k)
  if type(current) == 'table' then
    if not string.find(current.err, 'WRONGTYPE', 1, true) then
      return current -- an ACL, say: nobody knows what is there
    end
    others = others or {'held', '', redis.call('PTTL', k), now, i}
  elseif current then
    local pttl = redis.call('PTTL', k)
    if string.sub(current, 1, #ARGV[1]) == ARGV[1] then
      table.insert(fences, tonumber(string.sub(current, #ARGV[1] + 1)))
      shortest = math.min(shortest or pttl, pttl)
      own = own or {'held', current, pttl, now, i}
    elseif not others then
      local metadata = redis.pcall('GET', KEYS[4 * i - 1])
      others = {'held', current, pttl, now, i, type(metadata) == 'string' and metadata or nil}
    end
  end
end
if #fences == n then
  return {'again', fences, shortest, now}
end
if others or own then
  return others or own
end

local notAfter = tonumber(ARGV[3])
if notAfter > 0 and now > notAfter then
  return {'late', '', 0, now}
end

local history = tonumber(ARGV[5])
local amnesia = {}
for i = 1, n do
  local stored = redis.pcall('GET', KEYS[4 * i - 2])
  if type(stored) == 'table' then
    return {'corrupt', 'stored', 0, now, i}
  end
  if not stored then
    stored = 0
  else
    stored = string.match(stored, '^%d+$') and tonumber(stored)
    if not stored or stored > now + YEAR then
      return {'corrupt', 'stored', 0, now, i}
    end
  end
  local seen = tonumber(ARGV[5 + 2 * i])
  if seen > now + YEAR then
    return {'corrupt', 'seen', 0, now, i}
  end
  if history > 0 then
    local kind = redis.call('TYPE', KEYS[4 * i]).ok
    if kind ~= 'none' and kind ~= 'stream' then
      return {'corrupt', 'history', 0, now, i}
    end
  end
  if seen > stored and seen > tonumber(ARGV[6 + 2 * i]) then
    table.insert(amnesia, i)
    table.insert(amnesia, stored)
  end
  fences[i] = math.max(stored + 1, now, seen + 1)
end
if #amnesia > 0 then
  return {'amnesia', amnesia, 0, now}
end

for i = 1, n do
  local digits = string.format('%.0f', fences[i])
  redis.call('SET', KEYS[4 * i - 2], digits, 'PX', ARGV[4])
  if history > 0 then
    redis.call('XADD', KEYS[4 * i], 'MAXLEN', history, '*',
      'fence', digits, 'holder', string.match(ARGV[1], '^[^#]*'))
    redis.call('PEXPIRE', KEYS[4 * i], ARGV[4])
  end
  if ARGV[6] ~= '' then
    redis.call('SET', KEYS[4 * i - 1], digits .. ' ' .. ARGV[6], 'PX', ARGV[4])
  end
end
for i = 1, n do
  redis.call('SET', KEYS[4 * i - 3], ARGV[1] .. string.format('%.0f', fences[i]), 'PX', ARGV[2])
end
return {'granted', fences, tonumber(ARGV[2]), now}
