-- debounce_call: records calls.
--
-- KEYS[1]  K, the debounce
-- KEYS[2]  {K}:sources, for each source '<sequence> <generation>' of what it said last
-- KEYS[3]  {K}:heard, when each source was heard last, ms
-- ARGV[1]  source
-- ARGV[2]  sequence: a higher one for each request of the source
-- ARGV[3]  notAfter: server time in us after which this request is void; 0 = unknown
-- ARGV[4]  how many calls this request records
-- ARGV[5]  payload of the last of them
-- ARGV[6]  payload of the first, where they are several
-- ARGV[7]  expiry of K, ms
-- ARGV[8]  how long sources are remembered, ms
-- ARGV[9]  the channel on which runners listen
--
-- Reply    {'recorded', generation, now, opened}  opened: 1 = these calls opened a window
--          {'again',    generation, now, 0}  this request was recorded before
--          {'late',     0, now}
--          {'corrupt',  which, now}  which: 'key' or 'sources'
--          generation: of the run that has these calls in it.
--
-- Invariant: a request counts once, however often and late it arrives: its sequence is
-- remembered at least until it is void. A generation is higher than all that K ever
-- had, also where K was deleted: now is its floor.
local w = load(KEYS[1])
if not w then
  return {'corrupt', 'key', now}
end
if not usable(KEYS[2], 'hash') or not usable(KEYS[3], 'zset') then
  return {'corrupt', 'sources', now}
end
local notAfter = tonumber(ARGV[3])
if notAfter > 0 and now > notAfter then
  return {'late', 0, now}
end
local source, sequence = ARGV[1], tonumber(ARGV[2])
local heard = redis.call('HGET', KEYS[2], source)
if heard then
  local last, generation = string.match(heard, '^(%d+) (%d+)$')
  if last and sequence <= tonumber(last) then
    return {'again', tonumber(generation), now, 0}
  end
end

local count = tonumber(ARGV[4])
local ledEdge = w.led and redis.call('HGET', KEYS[1], 'ledEdge')

if w.led and now >= endOfLed(w) and not w.pending then
  redis.call('HDEL', KEYS[1], 'first', 'previous', 'led', 'ledEdge', 'ledWait', 'ledMaxWait')
  w.first, w.led = nil, nil
end
local opened = not w.first
if opened then
  redis.call('HSET', KEYS[1], 'first', digits(now))
  if w.lastCall then
    redis.call('HSET', KEYS[1], 'previous', digits(w.lastCall))
  else
    redis.call('HDEL', KEYS[1], 'previous')
  end
end

local generation
if w.led and ledEdge == 'Leading' then
  generation = w.led -- these calls are covered by the run that the window began with
else
  generation = w.pending
  if not generation then
    generation = math.max((w.generation or 0) + 1, now)
    redis.call('HSET', KEYS[1], 'generation', digits(generation), 'pending', digits(generation), 'since', digits(now))
  end
  if not w.pending then
    redis.call('HSET', KEYS[1], 'firstPayload', count > 1 and ARGV[6] or ARGV[5])
  end
  if w.pending or count > 1 then
    redis.call('HSET', KEYS[1], 'lastPayload', ARGV[5])
  end
  redis.call('HINCRBY', KEYS[1], 'count', count)
end
redis.call('HSET', KEYS[1], 'lastCall', digits(now))
redis.call('HINCRBY', KEYS[1], 'totalCalls', count)
keep(KEYS[1], ARGV[7])

local ms, memory = math.floor(now / 1000), tonumber(ARGV[8])
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', digits(ms - memory), 'LIMIT', 0, 16)) do
  redis.call('ZREM', KEYS[3], old)
  redis.call('HDEL', KEYS[2], old)
end
redis.call('HSET', KEYS[2], source, digits(sequence) .. ' ' .. digits(generation))
redis.call('ZADD', KEYS[3], digits(ms), source)
redis.call('PEXPIRE', KEYS[2], 2 * memory)
redis.call('PEXPIRE', KEYS[3], 2 * memory)

-- An ACL may deny the channel; that must not turn a recorded call into an error.
if opened then
  redis.pcall('PUBLISH', ARGV[9], '')
end
return {'recorded', generation, now, opened and 1 or 0}
