-- ask: what is active, for a worker: on behalf of requests that may not be answered from memory, and after a hint.
--
-- ARGV      9 id   10… models
-- Verdicts  ok: states {model → state}       unknown: no member: join again
-- Keeps     takes a number of the beat sequence, so that a demoted server refuses it (R16), but is no beat of the member

local early = guard()
if early then return early end
local id, names = ARGV[9], {}
for i = 10, #ARGV do names[ARGV[i]] = true end

if not beat_of(id) then return reply('unknown') end
take_beat()
local found = states(names, id)
flush()
return reply('ok', {states = found})
