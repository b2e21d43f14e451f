-- Block: charge every log that windows_decide.lua has read; of a refused operation, store the stamps that needed repair.
--
-- Takes    all that block takes and gives; `fits`, whether the operation is charged; `cap`, the most entries of a log
-- Gives    reset, counted from the new charges

for index = 1, logs do
  local log_key, view = KEYS[index + 1], views[index]
  local log, n, first, total, last, stamp, ahead, window = view[1], view[2], view[3], view[4], view[5], view[6], view[7], view[8]
  if fits or ahead then
    local now, added = now_ms, fits and view[9] or 0
    local entry = pair(stamp, total + added)
--#include sliding_window_charge.lua
    if fits and stamp + window - now > reset then reset = stamp + window - now end
  end
end
