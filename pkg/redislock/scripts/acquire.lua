-- acquire: grants the lock if it is free, with a new fencing token.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:fence, the highest fencing token granted so far
-- KEYS[3]  {K}:metadata, '<fence> <text>' of the last grant that has some
-- KEYS[4]  {K}:history, the last grants (only where there is an ARGV[7])
-- ARGV[1]  attempt: the token up to and including its last '#'
-- ARGV[2]  expiry of K, ms
-- ARGV[3]  notAfter: server time in us after which this request is void; 0 = unknown
-- ARGV[4]  seen: the highest fencing token the caller remembers; 0 = none
-- ARGV[5]  forgiven: the `seen` for which the caller has sat out its quarantine
-- ARGV[6]  expiry of the companion keys, ms
-- ARGV[7]  length of the history; 0 = none is kept, as where it is missing
-- ARGV[8]  metadata of the grant; '' = it has none
--
-- Reply    now                              granted, the fence is now
--          {'granted', fence, pttl, now}    granted, with a higher fence
--          {'again',   fence, pttl, now}     this attempt was granted before
--          {'held',    value, pttl, now, metadata}
--                                            value is '' where K is no string;
--                                            metadata is what KEYS[3] holds, if
--                                            anything, be it of this grant or not
--          {'late',    '',    0,    now}
--          {'corrupt', which, 0,    now}
--          {'amnesia', stored, 0,   now}
--
-- Invariant: a fencing token is stored before it is handed out and is higher
-- than any that is stored or that the caller has seen. Scripts do not roll
-- back, so everything is checked first and K is written last.
local YEAR = 366 * 24 * 3600 * 1e6

local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local current = redis.pcall('GET', KEYS[1])
if type(current) == 'table' then
  if not string.find(current.err, 'WRONGTYPE', 1, true) then
    return current -- an ACL, say: nobody knows what is there
  end
  return {'held', '', redis.call('PTTL', KEYS[1]), now}
end
if current then
  local pttl = redis.call('PTTL', KEYS[1])
  if string.sub(current, 1, #ARGV[1]) == ARGV[1] then
    return {'again', tonumber(string.sub(current, #ARGV[1] + 1)), pttl, now}
  end
  local metadata = redis.pcall('GET', KEYS[3])
  return {'held', current, pttl, now, type(metadata) == 'string' and metadata or nil}
end

local notAfter = tonumber(ARGV[3])
if notAfter > 0 and now > notAfter then
  return {'late', '', 0, now}
end

local stored = redis.pcall('GET', KEYS[2])
if not stored then
  stored = 0
else
  stored = type(stored) == 'string' and string.find(stored, '^%d+$') and tonumber(stored)
  if not stored or stored > now + YEAR then
    return {'corrupt', 'stored', 0, now}
  end
end
local seen = tonumber(ARGV[4])
if seen > now + YEAR then
  return {'corrupt', 'seen', 0, now}
end
if seen > stored and seen > tonumber(ARGV[5]) then
  return {'amnesia', stored, 0, now}
end

local history = ARGV[7] and tonumber(ARGV[7]) or 0
if history > 0 then
  local kind = redis.call('TYPE', KEYS[4]).ok
  if kind ~= 'none' and kind ~= 'stream' then
    return {'corrupt', 'history', 0, now}
  end
end

local fence = math.max(stored + 1, now, seen + 1)
local digits = string.format('%.0f', fence)
redis.call('SET', KEYS[2], digits, 'PX', ARGV[6])
if history > 0 then
  redis.call('XADD', KEYS[4], 'MAXLEN', history, '*',
    'fence', digits, 'holder', string.match(ARGV[1], '^[^#]*'))
  redis.call('PEXPIRE', KEYS[4], ARGV[6])
end
if ARGV[8] and ARGV[8] ~= '' then
  redis.call('SET', KEYS[3], digits .. ' ' .. ARGV[8], 'PX', ARGV[6])
end
redis.call('SET', KEYS[1], ARGV[1] .. digits, 'PX', ARGV[2])
if fence == now then
  return now
end
return {'granted', fence, tonumber(ARGV[2]), now}
