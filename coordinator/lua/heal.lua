-- heal: while closed, a worker gives back the highest record that it was told is active (R7). Arguments: see _heal.lua.
--
-- Verdicts  ok (nothing to heal, too): states     open: the fleet is open already, nothing was done
-- Keeps     no older content over a newer; next number above both

local early = guard()
if early then return early end
if fleet.open then return reply('open') end
heal()
save()
return reply('ok', {states = states({[told.name] = true})})
