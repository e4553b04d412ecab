-- evict: a member that has shown the same beat for a whole lease, by a watcher's clock, is no more (R5).
--
-- ARGV      9 id of the member   10 the beat that the watcher saw   11 who watched, for the log
-- Verdicts  ok (also when it was no member)    alive: it has another beat

local early = guard()
if early then return early end
local id, seen, watcher = ARGV[9], ARGV[10], ARGV[11]

local beat = beat_of(id)
if beat and beat ~= seen then return reply('alive') end
if beat then gone(id, 'evicted', true, {member = id, by = watcher}) end
save()
return reply('ok')
