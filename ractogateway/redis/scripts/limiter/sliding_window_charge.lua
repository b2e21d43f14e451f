-- Block: add tokens to the log that sliding_window_decide.lua has just read. O(1), or O(cap) when it rewrites the log.
--
-- Takes    all that block takes and gives
--          added          tokens; with 0 the stamps are stored as they were read
--          entry          pair(stamp, total + added)
--          cap            the most entries kept, >= 4
--
-- Most charges append the entry (one APPEND, no PEXPIRE) or put it in the place of the last one (SETRANGE). Once in a
-- period, and when the log is full or needs repair, it is rewritten: dead entries go and the TTL is renewed. So the TTL
-- covers a period more than the entries need.
--
-- WINDOWS IN USE. Callers may disagree about the window (a rolling deployment, a shared prefix): an entry is dropped
-- only when it is dead for the longest window in use, and the key lives as long. A window is in use from its first
-- charge to at least one window after its last: time is cut into periods of at least the longest window, `newer` is
-- the longest window that charged in this period, `older` the one of the period before. So shortened windows and mixed
-- ones lose nothing; a longest window that nobody charges with any more is forgotten after two periods; a lengthened
-- window is guaranteed one window after its first charge.
--
-- TOTALS only grow; before the last one would pass 2^53 - 1, all are lowered by what came before the first entry.
-- Where windows are mixed under limits near 2^53 the entries alone may hold more than that: then the oldest tokens,
-- dead for this caller, are forgotten, and a longer window still sees 2^53 - 1.
--
-- A FULL LOG is merged: entries of one cell of time become the latest of them, which holds their tokens longer by less
-- than a cell, so never too short. The window is cut into 3/4 cap cells, what only longer windows see into 1/8 cap;
-- the grid is fixed, so the next merge pushes no token any further. Below 3/4 cap live entries only charges of one ms
-- share an entry.

local stored = false
if log and not ahead and now < number_at(log, 23) and window <= number_at(log, 16) and total + added <= 2 ^ 53 - 1 then
  local cell = n - first + 1 >= cap * 3 / 4 and math.ceil(window / (cap * 3 / 4)) or 1
  if last - last % cell == stamp - stamp % cell then
    stored = redis.call('SETRANGE', log_key, 14 * n + 22, entry)
  elseif n < cap then
    stored = redis.call('APPEND', log_key, entry)
  end
end

if not stored then
  local older, newer, period_end, base, kept = 0, 0, 0, 0, ''
  if log then older, newer, period_end = number_at(log, 9), number_at(log, 16), number_at(log, 23) end
  if now < period_end then
    newer = math.max(newer, window)
  else
    older, newer = newer, window
    period_end = stamp + math.max(older, newer)
  end
  local keep = math.max(older, newer)
  if ahead then period_end = math.min(period_end, stamp + keep) end

  if log then
    -- The new entry takes in those of its own ms and, if the clock has stepped back, those ahead of it.
    local from, to = 1, n
    while from <= n and number_at(log, 14 * from + 23) <= now - keep do from = from + 1 end
    while to >= from and number_at(log, 14 * to + 23) >= stamp do to = to - 1 end
    base = number_at(log, 14 * (from - 1) + 30)

    local lowered = added > 2 ^ 53 - 1 - total and math.max(base, total - (2 ^ 53 - 1 - added)) or 0
    local full = to - from + 1 >= cap
    if full or lowered > 0 then
      local edge, live_cell, dead_cell = now - window, 1, 1
      if full then live_cell, dead_cell = math.ceil(window / (cap * 3 / 4)), math.ceil(keep / (cap / 8)) end
      local entries, count, previous
      repeat
        entries, count, previous = {}, 0, nil
        for index = from, to do
          local at = number_at(log, 14 * index + 23)
          local cell = at > edge and math.floor(at / live_cell) or -1 - math.floor(at / dead_cell)
          if cell ~= previous then count, previous = count + 1, cell end
          entries[count] = pair(at, math.max(0, number_at(log, 14 * index + 30) - lowered))
        end
        live_cell, dead_cell = live_cell * 2, dead_cell * 2
      until count < math.max(cap, 3)
      kept = table.concat(entries)
      base, entry = math.max(0, base - lowered), pair(stamp, total - lowered + added)
    else
      kept = string.sub(log, 14 * from + 23, 14 * to + 36)
    end
  end
  -- The period's last entry may be stamped 2 s after it; 1 s more, because TTLs count from the clock at the start of
  -- the script and TIME is read later.
  redis.call('SET', log_key, '\1' .. pair(log and not ahead and number_at(log, 2) or now_us, older)
    .. pair(newer, period_end) .. string.sub(pair(0, base), 8) .. kept .. entry,
    'PX', period_end - now + keep + 3000)
end
