-- Deletes a list if it still is what the caller has read.
--
-- KEYS[1] list       what is to go
-- ARGV[1...] items   what it must hold, in order, all of it
--
-- Reply: 1 if it was deleted, else 0. Errors, before any write: WRONGTYPE.
-- Commands (for an ACL): LRANGE UNLINK.
-- O(items).

local list = KEYS[1]
local first = ARGV[1]

local items = redis.call('LRANGE', list, 0, -1)
if #items ~= #ARGV or items[1] ~= first then return 0 end
for i = 1, #items do
  if items[i] ~= ARGV[i] then return 0 end
end
return redis.call('UNLINK', list)
