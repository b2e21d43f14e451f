-- Look an answer up in the exact cache, and where there is none, take the lease on computing it: one call.
--
-- KEYS[1]     generation   string, 16 bytes
-- KEYS[2]     entry        string, <stamp><head><envelope>; the head begins with compute_ms and grace_ms,
--                         8 hexadecimal digits each
-- KEYS[3]     lease        string, <token, 16 bytes><stamp>: somebody computes this answer
-- KEYS[4...]  tags         versions (string, 8 bytes): of the caller's own tags, then of those to be checked only
--
-- ARGV[1]     token        16 random bytes, the name of the lease if it is taken
-- ARGV[2]     lease_ms     life of the lease in ms
-- ARGV[3]     fresh        24 random bytes, see founding.lua
-- ARGV[4]     life_ms      longest life in ms of what the caller is about to write, lease included; '' for no end
-- ARGV[5]     early        how many times compute_ms before its end an answer is renewed; '' for never
-- ARGV[6]     stale        '1' if an answer in its time of grace will do, else ''
-- ARGV[7]     own_tags     how many of the tags are the caller's own
-- ARGV[8]     tag_ids      16 bytes a tag, in the order of KEYS
--
-- Reply: {status, value, left_ms, stamp}
--   1 HIT      value: the entry; left_ms: until its end, -1 for none; stamp: '' or, if the caller is to renew the answer,
--              that of its lease
--   2 STALE    the same for an entry in its time of grace
--   3 WAIT     value: the token of another one's lease; left_ms: until its end
--   4 OWN      value: the token; stamp: the stamp of the lease, which was taken
--   5 TELL     value: the stamp of an entry or lease that carries tags which are not among KEYS: call again with those,
--              too. At most twice, unless others write meanwhile: once for the entry, once for the lease
-- Complexity: O(1) and the size of the entry.

local generation_key, entry_key, lease_key = KEYS[1], KEYS[2], KEYS[3]
local token, lease_ms, fresh, life_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local early, stale, own_tags, tag_ids = ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]
local first_tag, stride, wanted = 4, 1, {entry_key, lease_key}
local HIT, STALE, WAIT, OWN, TELL = 1, 2, 3, 4, 5

--#include stamps.lua
--#include founding.lua

local entry, lease = values[2], values[3]
local entry_is = entry and verdict(entry, 1) or DEAD
if entry_is == UNTOLD then return {TELL, string.sub(entry, 1, stamp_end(entry, 1)), 0, ''} end
local lease_is = lease and verdict(lease, 17) or DEAD

-- After a lost reply the same call comes again, and finds its own lease.
local mine = lease_is == ALIVE and string.sub(lease, 1, 16) == token
-- Where there is an answer, a lease of which more would have to be asked is taken to be alive: at worst nobody renews
-- the answer until that lease ends.
local taken = lease_is ~= DEAD and not mine

local function take_lease()
  if mine then return string.sub(lease, 17) end
  local stamp = founded_stamp(own_tags)
  redis.call('SET', lease_key, token .. stamp, 'PX', lease_ms)
  return stamp
end

if entry_is == ALIVE then
  local head = stamp_end(entry, 1)
  local compute_ms = tonumber(string.sub(entry, head + 1, head + 8), 16) or 0
  local grace_ms = tonumber(string.sub(entry, head + 9, head + 16), 16) or 0
  local left_ms = redis.call('PTTL', entry_key)
  local fresh_ms = left_ms < 0 and left_ms or left_ms - grace_ms
  if left_ms < 0 or fresh_ms > 0 then
    local due = early ~= '' and left_ms >= 0 and compute_ms * tonumber(early) >= fresh_ms
    return {HIT, entry, fresh_ms, due and not taken and take_lease() or ''}
  elseif stale == '1' then
    return {STALE, entry, left_ms, not taken and take_lease() or ''}
  end
end
if lease_is == UNTOLD then return {TELL, string.sub(lease, 17), 0, ''} end
if taken then return {WAIT, string.sub(lease, 1, 16), redis.call('PTTL', lease_key), ''} end
return {OWN, token, 0, take_lease()}
