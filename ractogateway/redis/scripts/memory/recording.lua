-- Included, after conversation.lua, by the scripts that write to a conversation: refusals, and how a write is recorded.
-- Expects the locals `operation` (key), `expected` (a revision, '' for any), `keep` (ms that the operation is remembered).

local function is_guard_valid()
  return is_whole(tonumber(keep), 1, MAX_MS) and (expected == '' or is_whole(tonumber(expected), 0, MAX_WHOLE))
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
  local made = whole(revision)
  redis.call('HSET', state, 'c', string.format('%s %d %d %.0f %d %.0f', made, length, math.max(turns, 0),
    math.max(tokens, 0), pinned_count, position), 'h', changes)
  redis.call('SET', operation, made, 'PX', keep)
end

-- Both lives begin anew with every write; the state outlives a conversation that ends sooner than `tombstone`, and one
-- without messages does not stay for ever. Milliseconds as they came, so that none is written as 1e+13.
local function renew(ttl, tombstone)
  if ttl ~= '' or length == 0 then
    if ttl ~= '' then redis.call('PEXPIRE', conversation, ttl) end
    redis.call('PEXPIRE', state, (tonumber(ttl) or 0) > tonumber(tombstone) and ttl or tombstone)
  else
    redis.call('PERSIST', conversation)
    redis.call('PERSIST', state)
  end
end
