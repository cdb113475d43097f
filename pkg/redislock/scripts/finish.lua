-- finish: records that a run is over, for good.
--
-- KEYS[1]  {K}:runs; see claim
-- ARGV[1..2]  see ending
-- ARGV[3]  outcome
-- ARGV[4]  'success': it counts as a success of its series
--
-- Reply    {'done', '', now}
--          {'already', '', now}       recorded before, or a run without a tick of
--                                     which nothing is known
--          {'superseded', '', now}    claimed or done by another, or a tick of which
--                                     nothing is known
--          {'corrupt', '', now}
--
-- Invariant: the claim decides, not the lock, so that a run which ends just after
-- its lease is recorded all the same. Done never turns back. Creates no key.
local word = 'superseded'
local series = string.match(name, '^tick ([^ ]+) %d+$')
if state then
  word = state == 'done' and 'already' or 'done'
elseif not record and not series then
  if own then
    word = 'done'
  elseif not other then
    word = 'already'
  end
end

if word == 'done' then
  local at = string.format('%.0f', now)
  local write = {name, 'done ' .. ARGV[2] .. ' ' .. grant .. ' ' .. at .. ' ' .. claimant .. ' ' .. ARGV[3]}
  local last = series and tonumber((string.match(fields['success ' .. series] or '', '^%d+$')))
  if series and ARGV[4] == 'success' and (not last or now > last or last > now + YEAR) then
    table.insert(write, 'success ' .. series)
    table.insert(write, at)
  end
  redis.call('HSET', KEYS[1], unpack(write))
  keep()
end
drop()
return {word, '', now}
