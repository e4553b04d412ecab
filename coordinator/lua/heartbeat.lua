-- heartbeat: a member lives; the reply lengthens its lease, if the fleet is open.
--
-- ARGV      9 id   10 counter of its last acknowledged list   11 ids that it watches, by spaces   12 JSON for people, or empty
-- Verdicts  ok: beat, watch {id → beat}, due (1: a deadline has passed, call settle)
--           unknown: no member (evicted, or left): join again     list: the server's list is older than that: hold again
-- Keeps     O(1) whatever the number of models; refused means no lease and no beat

local early = guard()
if early then return early end
local id, counter, watched, about = ARGV[9], tonumber(ARGV[10]), ARGV[11], ARGV[12]

if not beat_of(id) then return reply('unknown') end
if (list_of(id)) < counter then return reply('list') end
local beat = whole(take_beat())
local named = watch(watched)
write('HSET', members_key, id, beat)
if about ~= '' then note('HSET', workers_key, id, about) end
flush()
return reply('ok', {beat = beat, watch = named, due = due() and 1 or 0})
