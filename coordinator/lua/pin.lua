-- pin: the model stays at what is active until unpinned: proposals are refused. Arguments: see _operator.lua.
--
-- Verdicts  ok: generation     conflict: found     closed, unknown-model
-- Keeps     stops the candidate and supersedes the next (R11); the reason of an earlier pin, where none is given

local early = guard() or refused('pin', 'active', {})
if early then return early end

stop_all('pinned by ' .. by)
if why == '' and record.pin then why = record.pin.why or '' end
if record.watch then stop_watch(name) end -- what somebody wants to stay no policy takes back
record.pin = {by = by, why = why, at = whole(now_ms()), gen = expected}
log('pinned', name, {generation = expected, by = by, why = why})
changed(name)
return answer_with('ok', {state = 'done', generation = expected})
