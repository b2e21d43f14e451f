-- Give a place among those who wait up.
--
-- KEYS[1]  the queue (ZSET, wait_turn.lua)
-- KEYS[2]  the ends of the tickets (ZSET)
-- ARGV[1]  ticket
--
-- Reply    1 if there was such a ticket, else 0
-- Commands (for an ACL): ZREM. Complexity: O(log tickets).

local queue_key, ends_key, ticket = KEYS[1], KEYS[2], ARGV[1]

redis.call('ZREM', ends_key, ticket)
return redis.call('ZREM', queue_key, ticket)
