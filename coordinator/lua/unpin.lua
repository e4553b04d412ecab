-- unpin: proposals are let in again. Arguments: see _operator.lua.
--
-- Verdicts  ok: generation     conflict: found     closed, unknown-model

local early = guard() or refused('unpin', 'active', {})
if early then return early end

if record.pin then
  record.pin = nil
  log('unpinned', name, {generation = expected, by = by, why = why})
  changed(name)
end
return answer_with('ok', {state = 'done', generation = expected})
