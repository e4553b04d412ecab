-- reopen: an open fleet is behind a worker, or at its number with another version: a new epoch and heal in one (R7).
-- Arguments: see _heal.lua.
--
-- Verdicts  epoch: a new epoch was begun, healed     ok: the fleet is not behind (any more), or was closed and is healed: states
-- Keeps     no worker takes a lower generation

local early = guard()
if early then return early end

local record = model(told.name)
local active = record and record.active
local behind = not active or tonumber(active.gen) < told.gen
  or (tonumber(active.gen) == told.gen and active.version ~= told.version)
if told.manifest == '' and not active then behind = false end
if behind and fleet.open then
  start_epoch()
  flush()
  writes, notes, dirty, records, touched = {}, {}, {}, {}, {}
  heal()
  save()
  return reply('epoch')
end
if behind then heal() end
save()
return reply('ok', {states = states({[told.name] = true})})
