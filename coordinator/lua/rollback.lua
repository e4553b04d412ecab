-- rollback: what was committed before becomes the candidate again, under a new number. Arguments: see _operator.lua, and
--
-- ARGV      15 generation to go to, 0: the newest way back   16 "1": pin   17 agreement   18 time to prepare, ms
--           19 "1": only while the active generation is watched after its canary, and nobody has begun to go back
--           20 manifest of 15 with an operator's order, empty: as it is stored
-- Verdicts  ok: state, generation, version, target     conflict: found     closed, unknown-model
--           nowhere: no such way back (`why`)     poisoned: why
-- Keeps     needs no lock; stops the candidate and supersedes the next; a pinned model can be rolled back (R11)

local early = guard() or refused('rollback', 'active', {target = named})
if early then return early end
local to, pin, agreement, length = ARGV[15], ARGV[16] == '1', ARGV[17], ARGV[18]

local is_leaving = record.cand and record.cand.rollback
if ARGV[19] == '1' and (is_leaving or not record.watch) then return answer_with('conflict', {found = expected}) end

local target = to
if to == '0' then
  target = way_back(name)
  if not target then return answer_with('nowhere', {why = 'nothing else was committed before it that is not poisoned or left'}) end
end
local row = (record.committed or {})[target]
if not row then return answer_with('nowhere', {why = 'it was never committed, or is too long ago'}) end
local bad = record.poison and record.poison[row.poison or '']
if bad then return answer_with('poisoned', {why = bad.why, version = row.version}) end
if not redis.call('HGET', generations_key, manifest_field(name, target)) then
  return answer_with('nowhere', {why = 'its manifest is lost'})
end
local brought = ARGV[20] ~= '' and ARGV[20] or nil
if brought and (parse(brought) or {}).version ~= row.version then
  return answer_with('nowhere', {why = 'the manifest that was brought along is of another version'})
end

stop_all('rolled back by ' .. by)
if pin then
  local gen, reason = whole(tonumber(record.next)), why ~= '' and why or 'rollback to ' .. target
  record.pin = {by = by, why = reason, at = whole(now_ms()), gen = gen}
  log('pinned', name, {generation = gen, by = by, why = reason})
end
first_answer(name, request, {verdict = 'ok', state = 'candidate', target = target, verb = verb})
go_back(name, target, {request = request, by = by, why = why, agreement = agreement, length = length}, brought)
save()
return reply('ok', parse(redis.call('HGET', generations_key, request_field(name, request))))
