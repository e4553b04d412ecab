-- leave: a member goes by itself, or its parent says that it is dead.
--
-- ARGV      9 id   10 "1": it died
-- Verdicts  ok (also when it was no member)
-- Keeps     sent after it stopped using its lease (R1); whom it kept waiting goes on at once

local early = guard()
if early then return early end
local id, died = ARGV[9], ARGV[10] == '1'

if beat_of(id) then gone(id, 'left', died, {member = id, died = died and 1 or 0}) end
save()
return reply('ok')
