-- enter: grants one of a semaphore's permits, or a read lock, with a new fencing
-- token. Both stand at K as a sorted set: tokens by when they lapse, ms, and a mark
-- with an infinite score that says which it is.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:fence, the highest fencing token granted so far
-- KEYS[3]  {K}:metadata
-- KEYS[4]  {K}:queue
-- KEYS[5]  {K}:places
-- ARGV[1..8]  as those of acquire; the expiry is that of the grant, and neither history
--          nor metadata is kept
-- ARGV[9]  the mark: '~permits <limit>' or '~readers'
-- ARGV[10]  how many grants there may be at once; 0 = any number
-- ARGV[11]  the channel on which waiters listen
--
-- Reply    {'granted', fence, ttl, now}     ttl is that of the grant, ms
--          {'again',   fence, ttl, now}     this attempt was granted before
--          {'held', value, pttl, now, ahead, 0, kind, metadata}
--            kind and metadata: as in the reply of queued; ahead: how many wait
--            for the whole of K, and pttl is then that of the first one's place.
--            Where all permits are taken pttl is that of the first to lapse.
--          {'limit', limit, pttl, now}      grants under another limit stand there
--          {'late', ...}, {'corrupt', ...}, {'amnesia', ...}  as acquire
--
-- Invariant: never more grants than the limit, which cannot change while there are
-- any; none beside a string at K. K expires with the last grant. Fencing tokens as
-- those of acquire. Who comes after somebody that waits for the whole of K is refused,
-- or the latter might wait for ever.
local attempt, limit = ARGV[1], tonumber(ARGV[10])

local kind, mark, live = kindOf(KEYS[1]), nil, 0
if notSets(KEYS[4], KEYS[5]) then
  return {'corrupt', 'queue', 0, now}
end
if kind == 'string' then
  return {'held', redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]), now, 0, 0, 'lock', metadataAt(KEYS[3])}
end
if kind ~= 'none' then
  mark = kind == 'zset' and markOf(KEYS[1])
  if not mark then
    return {'held', '', redis.call('PTTL', KEYS[1]), now, 0, 0, 'other'}
  end
  kind = string.match(mark, '%a+')
  local grants = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. digits(ms), '(inf')
  live = #grants
  for _, token in ipairs(grants) do
    if string.sub(token, 1, #attempt) == attempt then
      return {'again', tonumber(string.sub(token, #attempt + 1)), redis.call('ZSCORE', KEYS[1], token) - ms, now}
    end
  end
  if live > 0 and mark ~= ARGV[9] then
    if limit > 0 and kind == 'permits' then
      return {'limit', tonumber(string.match(mark, '%d+')), redis.call('PTTL', KEYS[1]), now}
    end
    return {'held', '', redis.call('PTTL', KEYS[1]), now, 0, 0, kind}
  end
  if limit > 0 and live >= limit then
    return {'held', '', redis.call('ZSCORE', KEYS[1], grants[1]) - ms, now, 0, 0, kind}
  end
end

local notAfter = tonumber(ARGV[3])
if notAfter > 0 and now > notAfter then
  return {'late', '', 0, now}
end

local head = foremost(KEYS[4], KEYS[5], '', ARGV[11])
if head then
  local rest = redis.call('ZSCORE', KEYS[5], head) - ms
  return {'held', '', rest, now, redis.call('ZCARD', KEYS[4]), 0, kind}
end

local fence, refusal = draw(KEYS[2], tonumber(ARGV[4]), tonumber(ARGV[5]))
if not fence then
  return refusal
end

redis.call('SET', KEYS[2], digits(fence), 'PX', ARGV[6])
if live == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', digits(ms))
end
redis.call('ZADD', KEYS[1], digits(ms + ARGV[2]), attempt .. digits(fence), '+inf', ARGV[9])
redis.call('PEXPIREAT', KEYS[1], redis.call('ZRANGE', KEYS[1], -2, -2, 'WITHSCORES')[2])
return {'granted', fence, tonumber(ARGV[2]), now}
