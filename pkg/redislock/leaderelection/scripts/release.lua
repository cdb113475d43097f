-- release: ends a term and leaves a record without a holder.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:record, client-go's record of the election
-- ARGV[1]  the whole token of the term, or the attempt (see ARGV[5])
-- ARGV[2]  the record to write; '' = leave it, for K being gone says it too
-- ARGV[3]  expiry of the companion keys, ms
-- ARGV[4]  the channel on which waiters listen
-- ARGV[5]  'token': K must equal ARGV[1]; 'attempt': K must begin with it, for the
--          clean-up of a take whose answer, and so its fence, never arrived
--
-- Reply    {'done', ''}
--          {'gone', ''}         nothing there
--          {'mismatch', ''}     something else there
--
-- Invariant: only the named term is ended. The record is written only together with
-- its end, so a request that comes again changes nothing.
local token = redis.pcall('GET', KEYS[1])
if type(token) == 'table' then
  if not string.find(token.err, 'WRONGTYPE', 1, true) then
    return token -- an ACL, say: nobody knows what is there
  end
  return {'mismatch', ''}
end
if not token then
  return {'gone', ''}
end
local mine = token == ARGV[1]
if ARGV[5] == 'attempt' then
  mine = string.sub(token, 1, #ARGV[1]) == ARGV[1]
end
if not mine then
  return {'mismatch', ''}
end
-- SET needs memory. Where Redis has none left K goes all the same, which says the
-- same as a record without a holder.
if ARGV[2] ~= '' then
  redis.pcall('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
redis.call('DEL', KEYS[1])
-- An ACL may deny the channel; that must not turn a done release into an error.
redis.pcall('PUBLISH', ARGV[4], '')
return {'done', ''}
