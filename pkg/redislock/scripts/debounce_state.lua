-- debounce_state: tells what is known of a debounce.
--
-- KEYS[1]  K, the debounce
--
-- Reply    {'state', now, 0, state} · {'corrupt', now, 0, {}, 'key'}
if not usable(KEYS[1], 'hash') then
  return {'corrupt', now, 0, {}, 'key'}
end
return {'state', now, 0, stateOf(KEYS[1])}
