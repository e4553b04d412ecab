-- promote: a canary answers a greater share of the requests, or is committed. Arguments: see _operator.lua, and
--
-- ARGV      15 generation of the candidate   16 the share, in ten-thousandths, 0: all of them   17 step that was looked at, 0: any
-- Verdicts  ok: generation, version     conflict: found (what is active, or the candidate)     closed, unknown-model
--           nowhere: it cannot be promoted so (`why`)
-- Keeps     the agreement is tested again among who holds now; a share never falls: whom the candidate has answered, it goes on to answer

local gen, share = ARGV[15], number_of(ARGV[16]) or 0
local early = guard() or refused('promote', 'active', {generation = named, share = whole(share)})
if early then return early end
local c = record.cand

if not c or c.gen ~= gen then return answer_with('conflict', {found = c and c.gen or '0'}) end
if c.phase ~= 'canary' then return answer_with('nowhere', {why = 'it is ' .. c.phase .. ', and no canary'}) end
if ARGV[17] ~= '0' and ARGV[17] ~= c.step then return answer_with('conflict', {found = c.gen}) end
if not agreed(c) then
  local why = string.format('%d are ready, %d failed, %d were not heard of; waits for %s', c.ready, c.failed, c.awaited, who_is_missing(name, c))
  return answer_with('nowhere', {why = why})
end

if share == 0 then
  begin_fencing(name)
elseif share <= c.share or share >= ALL then
  return answer_with('nowhere', {why = string.format('it has %g %% of the requests already', c.share / ALL * 100)})
else
  take_step(name, tonumber(c.step) + 1, share)
end
log('promoted', name, {generation = c.gen, version = c.version, share = share == 0 and 1 or share / ALL, by = by, why = why, request = request})
return answer_with('ok', {state = 'done', generation = c.gen, version = c.version})
