-- Takes the evicted entries of a conversation to be given to the hook, unless somebody else is at it.
--
-- KEYS[1] evicted      list of entries that wait
-- KEYS[2] delivering   list of those that are being delivered; they stay here until `settle`, whatever becomes of us
-- KEYS[3] lease        string, the token of whoever delivers; all keys under one hash tag
-- ARGV[1] token        names this claim
-- ARGV[2] lease ms     how long nobody else may deliver
-- ARGV[3] life ms      of what is being delivered, from now: attempts that fail must not let it run out
--
-- Reply: {entries}, none where there is nothing to do. Errors, before any write: WRONGTYPE, BADARGUMENT.
-- Commands (for an ACL): GET EXISTS RENAME LRANGE SET PEXPIRE.
-- O(entries).

local evicted, delivering, lease = KEYS[1], KEYS[2], KEYS[3]
local token, lease_ms, life_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

if token == '' or not (lease_ms and lease_ms >= 1 and lease_ms % 1 == 0)
    or not (life_ms and life_ms >= 1 and life_ms <= 1e14 and life_ms % 1 == 0) then
  return redis.error_reply('BADARGUMENT claim: an argument is out of range')
end
local holder = redis.call('GET', lease)
if holder and holder ~= token then return {} end
if redis.call('EXISTS', delivering) == 0 then
  if redis.call('EXISTS', evicted) == 0 then return {} end
  redis.call('RENAME', evicted, delivering)
end
redis.call('PEXPIRE', delivering, string.format('%.0f', life_ms))
redis.call('SET', lease, token, 'PX', string.format('%.0f', lease_ms))
return redis.call('LRANGE', delivering, 0, -1)
