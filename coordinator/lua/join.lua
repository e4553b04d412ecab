-- join: makes a member, under an id that this script gives (R10); the only call that does.
--
-- ARGV      9 JSON for people: worker, host, pid, …
-- Verdicts  ok: id, beat; the lease counts from when the call was first sent, if the fleet is open
-- Keeps     an id is used once in an epoch, also if this call is executed twice

local early = guard()
if early then return early end
local about = ARGV[9]

set('ids', fleet.ids + 1)
local id, beat = whole(fleet.ids), whole(take_beat())
if beat_of(id) then -- the counter was set back by somebody: two members of one id would answer for each other (R6)
  dirty = {}
  start_epoch()
  flush()
  return reply('epoch')
end
write('HSET', members_key, id, beat)
note('HSET', workers_key, id, about)
log('joined', nil, {member = id, about = parse(about)})
flush()
return reply('ok', {id = id, beat = beat})
