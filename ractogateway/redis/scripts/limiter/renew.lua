-- Renew the slots of an open reservation, and keep its record: the heartbeat of its holder.
--
-- KEYS[1]     the operation's record (STRING, acquire.lua)
-- KEYS[2...]  the sets of leases (ZSET, leases_decide.lua) in which it holds a slot
-- ARGV[1]     record ttl, ms, from now
-- ARGV[2]     lease, ms, from now
-- ARGV[3]     member: the operation's name in the sets
-- ARGV[4]     now, µs; '' for the server's clock (given only by tests)
--
-- Reply    1 if all slots are held until now + lease, 0 if one was given to somebody else or freed; then nothing was
--          written
--
-- Commands (for an ACL): TIME ZSCORE ZADD PTTL PEXPIRE. Complexity: O(log slots) for each set.

local record_key, first_leases = KEYS[1], KEYS[2]
local record_ttl, lease, member, given_now = ARGV[1] + 0, ARGV[2] + 0, ARGV[3], ARGV[4]

for index = 2, #KEYS do
  local leases_key = KEYS[index]
  if not redis.call('ZSCORE', leases_key, member) then return 0 end
end

local now_us
if given_now == '' then
  local time = redis.call('TIME')
  now_us = time[1] * 1000000 + time[2]
else
  now_us = given_now + 0
end
local now_ms = (now_us - now_us % 1000) / 1000
for index = 2, #KEYS do
  local leases_key = KEYS[index]
  redis.call('ZADD', leases_key, now_ms + lease, member)
  if redis.call('PTTL', leases_key) < lease + 1000 then redis.call('PEXPIRE', leases_key, lease + 1000) end
end
if redis.call('PTTL', record_key) < record_ttl then redis.call('PEXPIRE', record_key, record_ttl) end
return 1
