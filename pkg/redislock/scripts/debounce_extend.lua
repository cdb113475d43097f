-- debounce_extend: prolongs the lease of a claim.
--
-- KEYS[1]  K, the debounce
-- ARGV[1]  claimant
-- ARGV[2]  generation
-- ARGV[3]  attempt
-- ARGV[4]  lease, us
-- ARGV[5]  expiry of K, ms
--
-- Reply    {'ok', now, till, state} · {'gone', now, 0, state} · {'corrupt', now, 0, {}, 'key'}
--
-- Invariant: extends only, and never a claim that another has taken over or that was
-- given back.
local w = load(KEYS[1])
if not w then
  return {'corrupt', now, 0, {}, 'key'}
end
if w.running ~= tonumber(ARGV[2]) or w.attempt ~= tonumber(ARGV[3]) or redis.call('HGET', KEYS[1], 'claimant') ~= ARGV[1] then
  return {'gone', now, 0, stateOf(KEYS[1])}
end
local till = math.max(w.till, now + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'till', digits(till))
keep(KEYS[1], ARGV[5])
return {'ok', now, till, stateOf(KEYS[1])}
