-- debounce_finish: ends a run, or gives it back.
--
-- KEYS[1]  K, the debounce
-- ARGV[1]  claimant
-- ARGV[2]  generation
-- ARGV[3]  attempt
-- ARGV[4]  outcome; '' = the run is given back, for anybody to take over at once
-- ARGV[5]  message
-- ARGV[6]  expiry of K, ms
-- ARGV[7]  the channel on which runners listen
--
-- Reply    {'done' | 'again' | 'gone' | 'corrupt', now, 0, state}
--          again: it ended before; gone: another has taken it over, or K was lost
--
-- Invariant: only the running generation is cleared: calls that were recorded during the
-- run have a window of their own. A done generation never runs again. What is given back
-- has no claimant, so that a late repetition of this does not take it from the next.
local w = load(KEYS[1])
if not w then
  return {'corrupt', now, 0, {}, 'key'}
end
local generation = tonumber(ARGV[2])
if w.running ~= generation or w.attempt ~= tonumber(ARGV[3]) or redis.call('HGET', KEYS[1], 'claimant') ~= ARGV[1] then
  local again = w.done == generation and redis.call('HGET', KEYS[1], 'doneBy') == ARGV[1]
  return {again and 'again' or 'gone', now, 0, stateOf(KEYS[1])}
end
if ARGV[4] == '' then
  redis.call('HSET', KEYS[1], 'till', '0')
  redis.call('HDEL', KEYS[1], 'claimant')
else
  redis.call('HSET', KEYS[1], 'done', digits(generation), 'doneBy', ARGV[1], 'doneStart', digits(w.claimed),
    'doneAt', digits(now), 'doneCount', digits(w.runCount), 'doneAttempt', digits(w.attempt),
    'outcome', ARGV[4], 'message', ARGV[5])
  redis.call('HDEL', KEYS[1], 'running', 'claimant', 'claimed', 'till', 'attempt', 'runSince', 'runLast', 'runCount', 'runPayload')
  redis.call('HINCRBY', KEYS[1], 'totalRuns', 1)
end
keep(KEYS[1], ARGV[6])
redis.pcall('PUBLISH', ARGV[7], '')
return {'done', now, 0, stateOf(KEYS[1])}
