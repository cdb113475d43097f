-- queued: acquire in order of arrival: grants the lock if it is free and nobody who
-- came earlier waits for it. A refused caller takes a place in the queue, or keeps it.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:fence, the highest fencing token granted so far
-- KEYS[3]  {K}:metadata
-- KEYS[4]  {K}:history, the last grants (only where ARGV[7] > 0)
-- KEYS[5]  {K}:queue
-- KEYS[6]  {K}:places
-- ARGV[1..8]  as those of acquire
-- ARGV[9]  ms for which the caller's place counts from now; 0 = it takes none
-- ARGV[10]  the channel on which waiters listen
--
-- Reply    as that of acquire, but
--          {'granted', fence, pttl, now, 0, ticket}
--          {'again',   fence, pttl, now, 0, 0}
--          {'held',    value, pttl, now, ahead, ticket, kind, metadata}
--          ahead: how many wait before the caller; ticket: of the place that the caller
--          has, or had until it was granted the lock; 0 for none;
--          kind: what stands at K, 'none', 'lock', 'readers', 'permits' or 'other'.
--          metadata: as in the reply of acquire.
--          Where K is free pttl is that of the first one's place.
--
-- Invariant: that of acquire. A place lapses by the server's time unless its attempt
-- asks again, so whoever dies while he waits delays the others no longer than that;
-- and it keeps its ticket until then. A request that is late takes no place.
local attempt, place = ARGV[1], tonumber(ARGV[9])

local kind, value = kindOf(KEYS[1]), ''
if notSets(KEYS[5], KEYS[6]) then
  return {'corrupt', 'queue', 0, now}
end
if kind == 'string' then
  kind, value = 'lock', redis.call('GET', KEYS[1])
  if string.sub(value, 1, #attempt) == attempt then
    return {'again', tonumber(string.sub(value, #attempt + 1)), redis.call('PTTL', KEYS[1]), now, 0, 0}
  end
elseif kind ~= 'none' then
  local mark = kind == 'zset' and markOf(KEYS[1])
  kind = mark and string.match(mark, '%a+') or 'other'
end

local notAfter = tonumber(ARGV[3])
if notAfter > 0 and now > notAfter then
  return {'late', '', 0, now}
end

local head = foremost(KEYS[5], KEYS[6], attempt, ARGV[10])
local ticket = redis.call('ZSCORE', KEYS[5], attempt)
if kind ~= 'none' or head and head ~= attempt then
  if place > 0 then
    if not ticket then
      local last = redis.call('ZRANGE', KEYS[5], -1, -1, 'WITHSCORES')[2]
      ticket = math.max(now, tonumber(last or 0) + 1)
      redis.call('ZADD', KEYS[5], digits(ticket), attempt)
    end
    local till = math.max(tonumber(redis.call('ZSCORE', KEYS[6], attempt) or 0), ms + place)
    redis.call('ZADD', KEYS[6], digits(till), attempt)
    local last = redis.call('ZRANGE', KEYS[6], -1, -1, 'WITHSCORES')[2]
    redis.call('PEXPIREAT', KEYS[5], last)
    redis.call('PEXPIREAT', KEYS[6], last)
  end
  local ahead = redis.call('ZRANK', KEYS[5], attempt) or redis.call('ZCARD', KEYS[5])
  local pttl = redis.call('PTTL', KEYS[1])
  if kind == 'none' then
    pttl = redis.call('ZSCORE', KEYS[6], head) - ms
  end
  return {'held', value, pttl, now, ahead, tonumber(ticket or 0), kind, kind == 'lock' and metadataAt(KEYS[3]) or nil}
end

local fence, refusal = draw(KEYS[2], tonumber(ARGV[4]), tonumber(ARGV[5]))
if not fence then
  return refusal
end
local history = tonumber(ARGV[7])
if history > 0 then
  local found = kindOf(KEYS[4])
  if found ~= 'none' and found ~= 'stream' then
    return {'corrupt', 'history', 0, now}
  end
end

redis.call('SET', KEYS[2], digits(fence), 'PX', ARGV[6])
if history > 0 then
  redis.call('XADD', KEYS[4], 'MAXLEN', history, '*',
    'fence', digits(fence), 'holder', string.match(attempt, '^[^#]*'))
  redis.call('PEXPIRE', KEYS[4], ARGV[6])
end
if ARGV[8] ~= '' then
  redis.call('SET', KEYS[3], digits(fence) .. ' ' .. ARGV[8], 'PX', ARGV[6])
end
redis.call('SET', KEYS[1], attempt .. digits(fence), 'PX', ARGV[2])
redis.call('ZREM', KEYS[5], attempt)
redis.call('ZREM', KEYS[6], attempt)
return {'granted', fence, tonumber(ARGV[2]), now, 0, tonumber(ticket or 0)}
