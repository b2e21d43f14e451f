-- Block: is there a slot for one more reservation in each of several sets of leases? After windows_decide.lua.
--
-- A set of leases is a ZSET: the operation that holds the slot, by the ms at which its lease ends. Leases that have ended
-- stay until somebody needs their slot: a holder who comes late, but before that, may renew it (renew.lua), and the set
-- still never holds more than its limit.
-- When the clock steps back, a lease ends as much later: that of a living holder until it is next renewed, which sets the
-- end anew, to earlier too; that of a dead one blocks its slot for the step. Leases differ in length, so an end alone
-- does not tell whether it is too late.
--
-- Takes    logs, FIRST_LIMIT, now_ms, refused, retry; lease set i is KEYS[1 + logs + i], its limit the ARGV after all
--          those of the logs
-- Gives    sets           how many; `refused` may now be logs + i
--          waits          ms until each set has a slot, 0 if it has one

local sets, waits = #KEYS - 1 - logs, {}
for index = 1, sets do
  local leases_key, most = KEYS[1 + logs + index], ARGV[FIRST_LIMIT + 3 * logs + index - 1] + 0
  waits[index] = 0
  if redis.call('ZCARD', leases_key) >= most then
    local live = redis.call('ZCOUNT', leases_key, '(' .. now_ms, '+inf')
    if live >= most then
      local ending = redis.call('ZRANGEBYSCORE', leases_key, '(' .. now_ms, '+inf', 'WITHSCORES', 'LIMIT', live - most, 1)
      waits[index] = ending[2] - now_ms
      if retry >= 0 and waits[index] > retry then retry, refused = waits[index], logs + index end
    end
  end
end
