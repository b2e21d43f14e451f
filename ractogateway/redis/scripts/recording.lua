-- Included, after conversation.lua, by the scripts that write to a conversation: refusals, and how a write is recorded.
-- Expects the locals `operation` (key), `expected` (a revision, '' for any), `keep` (ms that the operation is remembered).

local function is_guard_valid()
  return is_whole(keep, 1, MAX_MS) and (expected == '' or is_whole(tonumber(expected), 0, MAX_WHOLE))
end

local function refused(status, at, waiting, owner)
  return {status, at, 0, length, -1, -1, waiting, owner or ''}
end

-- The reply to a call that has been applied already, or comes too late; else nil.
local function refusal(waiting)
  local made = tonumber(redis.call('GET', operation))
  if made then return refused(REPLAYED, made, waiting) end
  if expected ~= '' and tonumber(expected) ~= revision then return refused(CONFLICT, revision, waiting) end
end

local function whole(number)
  return string.format('%.0f', number)
end

-- `change` is what a reader of the revision before has to know, 'x' for "read anew".
local function record(change)
  revision = revision + 1
  changes = change .. ';' .. changes
  if #changes > LONGEST_LOG then changes = string.match(string.sub(changes, 1, KEPT_OF_LOG), '^.*;') end
  redis.call('HSET', state, 'r', whole(revision), 'n', length, 't', turns, 'w', whole(tokens), 'p', pinned_count,
    'd', whole(position), 'h', changes)
  redis.call('SET', operation, whole(revision), 'PX', whole(keep))
end

local function expire(key, ms)
  redis.call('PEXPIRE', key, whole(ms))
end

-- Both lives begin anew with every write; the state outlives a conversation that ends sooner than `tombstone`, and one
-- without messages does not stay for ever.
local function renew(ttl_ms, tombstone)
  if ttl_ms or length == 0 then
    if ttl_ms then expire(conversation, ttl_ms) end
    expire(state, math.max(ttl_ms or 1, tombstone))
  else
    redis.call('PERSIST', conversation)
    redis.call('PERSIST', state)
  end
end
