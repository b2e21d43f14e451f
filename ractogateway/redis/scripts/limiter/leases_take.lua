-- Block: take a slot in each set of leases, or keep it for another lease. After leases_decide.lua, where all have one.
--
-- Takes    logs, sets, FIRST_LIMIT, now_ms; lease, member

for index = 1, sets do
  local leases_key, most = KEYS[1 + logs + index], ARGV[FIRST_LIMIT + 3 * logs + index - 1] + 0
  local held_until = redis.call('ZSCORE', leases_key, member)
  if not held_until then
    if redis.call('ZCARD', leases_key) >= most then redis.call('ZREMRANGEBYSCORE', leases_key, '-inf', now_ms) end
  end
  if not held_until or held_until + 0 < now_ms + lease then redis.call('ZADD', leases_key, now_ms + lease, member) end
  -- The key lives as long as its longest lease; 1 s more, because TTLs count from the start of the script.
  if redis.call('PTTL', leases_key) < lease + 1000 then redis.call('PEXPIRE', leases_key, lease + 1000) end
end
