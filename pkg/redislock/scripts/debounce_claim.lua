-- debounce_claim: gives a runner the generation that is due, if any.
--
-- KEYS[1]  K, the debounce
-- ARGV[1]  claimant
-- ARGV[2]  notAfter: server time in us after which this request is void; 0 = unknown
-- ARGV[3]  lease of a claim, us
-- ARGV[4]  wait, us
-- ARGV[5]  maxWait, us
-- ARGV[6]  minInterval, us
-- ARGV[7]  edge: 'Trailing', 'Leading' or 'Both'
-- ARGV[8]  payload: 'Last' or 'First'
-- ARGV[9]  expiry of K, ms
-- ARGV[10] a generation that the caller waits for; 0 = none
--
-- Reply    {word, now, at, state, payload}
--          'claimed'  the caller runs the generation state.running; payload is its
--          'resumed'  the same, and it was the caller's before
--          'taken'    the same, and it was another's, whose lease is over
--          'busy'     another runs one; at: when its lease is over
--          'waiting'  a window is open; at: when it is due, or ends without a run
--          'idle'     at is 0
--          'over'     the generation that the caller waits for, or a later one, ended
--          'late', 'corrupt': as debounce_call, with at 0
--          state: as stateOf in debounce, after the claim.
--
-- Invariant: one claimant at a time while leases last. A generation stays until it is
-- finished, with its calls and its payload, whoever runs it.
local w = load(KEYS[1])
if not w then
  return {'corrupt', now, 0, {}, 'key'}
end
local notAfter = tonumber(ARGV[2])
if notAfter > 0 and now > notAfter then
  return {'late', now, 0, {}}
end
local me, lease, edge = ARGV[1], tonumber(ARGV[3]), ARGV[7]
local wait, maxWait, minInterval = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local function answer(word, at, payload)
  return {word, now, at, stateOf(KEYS[1]), payload}
end

-- A window that somebody waits for stays, whatever expiry its callers asked for.
local function stayUntil(due)
  keep(KEYS[1], ARGV[9])
  return answer('waiting', due)
end

local awaited = tonumber(ARGV[10])
if awaited > 0 and w.done and w.done >= awaited then
  return answer('over', 0)
end
if w.running then
  local claimant = redis.call('HGET', KEYS[1], 'claimant')
  if claimant ~= me and w.till > now then
    return answer('busy', w.till)
  end
  local till = math.max(now + lease, claimant == me and w.till or 0)
  redis.call('HSET', KEYS[1], 'claimant', me, 'till', digits(till))
  if claimant ~= me then
    redis.call('HSET', KEYS[1], 'attempt', digits(w.attempt + 1), 'claimed', digits(now))
  end
  keep(KEYS[1], ARGV[9])
  return answer(claimant == me and 'resumed' or 'taken', till, redis.call('HGET', KEYS[1], 'runPayload'))
end

if not w.first then
  return answer('idle', 0)
end
local due, leads
if w.led then
  due = endOfLed(w)
  if not w.pending then
    if now < due then
      return stayUntil(due)
    end
    redis.call('HDEL', KEYS[1], 'first', 'previous', 'led', 'ledEdge', 'ledWait', 'ledMaxWait')
    return answer('idle', 0)
  end
else
  -- After a window that maxWait ended calls go on: the next is no leading edge where
  -- there is a trailing one.
  leads = edge == 'Leading' or edge == 'Both' and (not w.previous or w.first - w.previous >= wait)
  due = leads and w.first or math.min(w.lastCall + wait, w.first + maxWait)
end
if w.lastStart and minInterval > 0 then
  due = math.max(due, w.lastStart + minInterval)
end
if now < due then
  return stayUntil(due)
end

local payloads = redis.call('HMGET', KEYS[1], 'firstPayload', 'lastPayload')
local payload = ARGV[8] == 'Last' and payloads[2] or payloads[1]
redis.call('HSET', KEYS[1], 'running', digits(w.pending), 'claimant', me, 'claimed', digits(now),
  'till', digits(now + lease), 'attempt', '1', 'lastStart', digits(now),
  'runSince', digits(w.since), 'runLast', digits(w.lastCall), 'runCount', digits(w.count), 'runPayload', payload)
redis.call('HDEL', KEYS[1], 'pending', 'since', 'count', 'firstPayload', 'lastPayload')
if leads then
  redis.call('HSET', KEYS[1], 'led', digits(w.pending), 'ledEdge', edge, 'ledWait', digits(wait), 'ledMaxWait', digits(maxWait))
else
  redis.call('HDEL', KEYS[1], 'first', 'previous', 'led', 'ledEdge', 'ledWait', 'ledMaxWait')
end
keep(KEYS[1], ARGV[9])
return answer('claimed', now + lease, payload)
